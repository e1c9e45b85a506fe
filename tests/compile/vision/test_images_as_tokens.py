"""Chameleon: images as tokens of a codebook, which are never answered with, and a separator behind each prompt."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.models.any_vlm import write_any
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.quantize.layers import layers_to_quantize
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.config.quantization import QuantConfig, QuantFormat
from tt_edge.errors import UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM

NEW = 6
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=48, max_seq_len=160, max_image_tokens=48)
GREEDY = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The compiled model, the one in PyTorch, and the folder of bundle and checkpoint."""
    folder = tmp_path_factory.mktemp("chameleon")
    write_any("chameleon", folder / "checkpoint")
    compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", LIMITS, EngineTarget())
    with LLM.load(folder / "out.ttedge", "reference") as llm:
        yield llm, PyTorchVLM(folder / "checkpoint", Precision.FP32), folder


def test_photos_to_answers(both):
    """One image, two in the midst of a text, none."""
    llm, theirs, _ = both
    wide, tall = Image.fromarray(photo(60, 80)), Image.fromarray(photo(57, 33, 1))
    asked = [("<image>what is it?", [wide]), ("look: <image> and <image> so", [tall, wide]), ("hello", [])]
    completions = llm.generate([prompt for prompt, _ in asked], GREEDY, images=[given for _, given in asked])
    separator = llm.tokenizer.backend.token_to_id("<sep>")
    for (prompt, given), completion in zip(asked, completions, strict=True):
        inputs = theirs.inputs(llm, prompt, given)
        assert list(completion.input_ids) == inputs["input_ids"][0].tolist()
        assert completion.input_ids[-1] == separator
        assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)


def test_its_tower_has_nothing_to_quantize(both):
    with pytest.raises(
        UnsupportedModelError, match="no blocks of linear layers, which --quant-vision quantizes; omit it"
    ):
        layers_to_quantize(both[1].model, QuantConfig(None, vision=QuantFormat.INT8_SQ))


def test_verify(both):
    """Logits of image tokens, overwritten with the lowest number, do not hide errors of the others."""
    *_, folder = both
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
    assert report.passed, report.render()
    assert 0 < max(row.relative_error for row in report.rows) < 1e-4
