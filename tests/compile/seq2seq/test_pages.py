"""Pages to text: a Swin encoder with an mBART decoder, as Donut and Nougat are, from an image file on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.compile.seq2seq.seq2seqs import answers, compiled, wanted
from tests.runtime.seq2seq.test_page import page
from tests.tiny_seq2seq import save_seq2seq, tiny_page_reader
from tt_edge.cli import main
from tt_edge.compile.seq2seq.model import Seq2Seq
from tt_edge.compile.seq2seq.parts import Seq2SeqDecoderCompiler
from tt_edge.config import CompileConfig
from tt_edge.errors import UnsupportedModelError


@pytest.mark.parametrize(("kind", "form"), [("nougat", {}), ("nougat", {"backend": "sdpa"})])
def test_pixels_to_tokens(kind, form):
    model = tiny_page_reader(kind)
    model.generation_config.eos_token_id = None
    parts = compiled(model, **form)
    shape = parts[0].contract.inputs[0].resolve(batch=1)[1:]
    generator = np.random.default_rng(0)
    sources = [generator.standard_normal(shape).astype(np.float32) for _ in range(4)]
    search = {"max_new_tokens": 20, "no_repeat_ngram_size": 2}
    got = answers(parts, [2], sources, **search)
    assert got == [wanted(model, source, "pixel_values", **search) for source in sources]
    assert all(len(set(tokens)) > 4 for tokens in got)


def test_a_decoder_with_attention_of_its_own_is_refused_with_the_reason():
    import transformers

    encoder = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    decoder = transformers.TrOCRConfig(
        vocab_size=99, d_model=32, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64,
        max_position_embeddings=96, cross_attention_hidden_size=32,
    )  # fmt: skip
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 2, 1
    parts = Seq2Seq.of(transformers.VisionEncoderDecoderModel(config).eval())
    settings = CompileConfig.of(precision="fp32", max_batch=2, max_seq_len=16, max_input_len=16)
    settings = settings.with_limits(replace(settings.limits, max_source_len=parts.cross_shape[1]))
    with pytest.raises(
        UnsupportedModelError, match=r"^TrOCRForCausalLM, the decoder of .*, computes attention by itself"
    ):
        Seq2SeqDecoderCompiler(parts, settings).export()


def test_an_image_file_to_text(tmp_path, capsys):
    from PIL import Image
    from transformers import DonutImageProcessor

    model = tiny_page_reader("donut")
    checkpoint, bundle, file = tmp_path / "donut", tmp_path / "donut.ttedge", tmp_path / "page.png"
    save_seq2seq(model, checkpoint)
    processor = DonutImageProcessor(size={"height": 32, "width": 64})
    processor.save_pretrained(checkpoint)
    Image.fromarray(page(48, 90)).save(file)
    options = ["--precision", "fp32", "--max-seq-len", "40"]
    assert main(["compile", str(checkpoint), "-o", str(bundle), *options]) == 0
    assert main(["verify", str(bundle), "--model", str(checkpoint), "--new-tokens", "10"]) == 0
    pixels = processor(page(48, 90), return_tensors="pt")["pixel_values"]
    for prompt, start in (([], [2]), (["--prompt", "w30 w31"], [30, 31])):
        capsys.readouterr()
        assert main(["run", str(bundle), "--image", str(file), *prompt, "--max-new-tokens", "12", "--json"]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        out = model.generate(
            pixels, decoder_input_ids=torch.tensor([start]), max_new_tokens=12, do_sample=False, num_beams=1
        )
        assert answer["input_ids"] == start
        assert out[0].tolist()[: len(start)] == start
        assert answer["new_token_ids"] == out[0].tolist()[len(start) :]
    for arguments, message in (
        (["--prompt", "w4"], "the model reads one page, and there are 0 images"),
        (["--image", str(file), "--image", str(file)], "the model reads one page, and there are 2 images"),
    ):
        assert main(["run", str(bundle), *arguments])
        assert message in capsys.readouterr().err
