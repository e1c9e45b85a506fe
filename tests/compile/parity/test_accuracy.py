"""Logits of an answer's tokens beside a bundle's: those of ``generate()``, whatever a model's inputs say of each token."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tests.models.any_vlm import write_any
from tests.models.vlm_checkpoints import FOUND_TOKENS, PLACEHOLDERS, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity.accuracy import with_answer
from tt_edge.compile.parity.images.pytorch_vlm import processor_inputs, processor_of
from tt_edge.compile.parity.references.loading import clean_generation
from tt_edge.config import Precision


@pytest.mark.parametrize("name", ["gemma3", "paligemma", "kosmos-2"])
def test_answers_go_on_as_in_generate(tmp_path, name):
    """Kinds of tokens, those of a prefix that sees itself, places of images: each has one value a token."""
    (write_checkpoint if name in FOUND_TOKENS else write_any)(name, tmp_path)
    model, image = load_model(tmp_path, Precision.FP32), Image.fromarray(photo(60, 80))
    inputs = processor_inputs(processor_of(tmp_path), PLACEHOLDERS.get(name, "") + "what?", [image])
    with torch.no_grad(), clean_generation(model):
        made = model.generate(
            **inputs, max_new_tokens=5, eos_token_id=None, output_logits=True, return_dict_in_generate=True
        )
        answer = made.sequences[0, -5:].tolist()
        logits = model(**with_answer(model, inputs, answer[:-1]), use_cache=False).logits[0, -5:]
    torch.testing.assert_close(logits, torch.cat(made.logits), atol=1e-4, rtol=0)
