"""What a network's logits are compared with: those by which ``generate()`` chose its tokens, whatever these are."""

from __future__ import annotations

import torch

from tests.models.any_vlm import write_any
from tests.models.vlm_checkpoints import files_of
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity.images.pytorch_vlm import model_inputs
from tt_edge.compile.parity.logits import PyTorchReference
from tt_edge.compile.parity.prompts import Prompt
from tt_edge.compile.parity.references.loading import clean_generation
from tt_edge.compile.vision.processing.images import prepare_images
from tt_edge.config import Precision
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.text.tokenizer import BundleTokenizer


def test_learned_tokens_among_new_ones(tmp_path):
    """Ovis 2 reads learned rows in the place of its indicator tokens, but not of those that it chooses itself."""
    write_any("ovis2", tmp_path)
    model = load_model(tmp_path, Precision.FP32)
    files = files_of(model, tmp_path)
    processor = MultimodalProcessor.from_files(files, prepare_images(model, str(tmp_path), files).geometry)
    ids, pictures = processor.tokenize(
        BundleTokenizer.from_bundle(files), "<image>what?", [photo(60, 80)], add_special_tokens=True
    )
    indicator = model.config.visual_indicator_token_ids[0]
    likely = torch.zeros(model.config.text_config.vocab_size).index_fill(0, torch.tensor(indicator), 100.0)
    model.lm_head.register_forward_hook(lambda _module, _given, out: out + likely)
    tokens, logits, _ = PyTorchReference(model, Precision.FP32).answer(Prompt(ids, tuple(pictures)), 4)
    assert tokens == [indicator] * 4
    with torch.no_grad(), clean_generation(model):
        made = model.generate(
            **model_inputs(model, [ids], pictures), max_new_tokens=4, output_logits=True, return_dict_in_generate=True
        )
    torch.testing.assert_close(torch.from_numpy(logits), torch.cat(made.logits), atol=1e-4, rtol=0)
