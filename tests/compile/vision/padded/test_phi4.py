"""Phi-4-multimodal, whose tiles may be partly padding, beside ``generate()`` with its own processor."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

from tests.compile.vision.answers import GREEDY, NEW, assert_equal_answers
from tests.models.phi4 import write_phi4
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.files import HostFiles
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.vision.padded.phi4 import PaddedTower, padded_features, padded_inputs
from tt_edge.compile.vision.processing.images import prepare_images
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.runtime import LLM
from tt_edge.runtime.benchmark.vision import random_picture, random_prompt
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt

LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=1600, max_seq_len=1664, max_image_tokens=1548)
PHOTOS = [photo(60, 80), photo(70, 41, 1)]


@pytest.fixture(scope="module")
def phi4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phi4")
    write_phi4(folder / "checkpoint")
    compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", LIMITS, EngineTarget())
    return folder


def test_answers(phi4):
    """One image, two, and none."""
    asked = [
        ("<image>What is it?", PHOTOS[:1]),
        ("A <image> or <image>?", [PHOTOS[1], photo(40, 40, 2)]),
        ("Hello.", []),
    ]
    with LLM.load(phi4 / "out.ttedge", "reference") as llm:
        assert_equal_answers(llm, PyTorchVLM(phi4 / "checkpoint", Precision.FP32), asked)


def test_an_image_without_padding(phi4):
    """transformers' eager attention sees both ways in the tower, its SDPA only where something is masked."""
    picture = Image.fromarray(photo(64, 128, 3))
    processor = AutoProcessor.from_pretrained(phi4 / "checkpoint")
    inputs = processor(text=["<image>What?"], images=[picture], return_tensors="pt")
    assert inputs["image_attention_mask"].all()
    model = AutoModelForCausalLM.from_pretrained(phi4 / "checkpoint", dtype=torch.float32, attn_implementation="eager")
    inputs.pop("num_img_tokens", None)
    want = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None)[0].tolist()
    with LLM.load(phi4 / "out.ttedge", "reference") as llm:
        [got] = llm.generate(["<image>What?"], GREEDY, images=[[picture]])
    assert [*got.input_ids, *got.new_token_ids] == want


def test_verify(phi4):
    report = verify_bundle(Bundle.open(phi4 / "out.ttedge"), phi4 / "checkpoint", new_tokens=3)
    assert report.passed, report.render()


def test_features_of_padded_tiles(phi4):
    """The tower's rows, as the runtime takes them, are what the model's projection makes of the same images."""
    model = load_model(phi4 / "checkpoint", Precision.FP32)
    with LLM.load(phi4 / "out.ttedge", "reference") as llm:
        images = [llm.vision.processor.preprocess(image) for image in PHOTOS]
        got = llm.vision.encoder.encode(images)["image_features"]
    assert any((image.edges < 32).any() for image in images)
    with torch.no_grad():
        want = torch.cat(padded_features(model, padded_inputs(model, images)))
    torch.testing.assert_close(torch.from_numpy(got.astype("float32")), want, atol=2e-4, rtol=1e-3)


def test_an_image_of_random_pixels(phi4):
    """What benchmarks compute with: tiles without padding, as the model's own code has them."""
    model = load_model(phi4 / "checkpoint", Precision.FP32)
    with LLM.load(phi4 / "out.ttedge", "reference") as llm:
        contract = llm.vision.encoder.session.contract
        image = random_picture(contract, contract.tower.least_image_tokens)
        got = llm.vision.encoder.encode([image])["image_features"]
        with pytest.raises(
            InvalidInputError, match=r"has 258 image tokens; give a multiple of 272 and 1 more, such as 545"
        ):
            random_picture(contract, 258)
        assert len(random_prompt(llm, 600, image.tokens)) == 600
    with torch.no_grad():
        want = torch.cat(padded_features(model, padded_inputs(model, [image])))
    torch.testing.assert_close(torch.from_numpy(got.astype("float32")), want, atol=2e-4, rtol=1e-3)


def test_what_is_found(phi4):
    prompt = ImagePrompt.read(Bundle.open(phi4 / "out.ttedge"))
    assert prompt.processor == "Phi4MultimodalImageProcessor"
    assert (prompt.placeholders.start, prompt.placeholders.end, prompt.placeholders.tiles) == ("", "", None)


def test_what_is_refused(phi4, tmp_path):
    model, files = load_model(phi4 / "checkpoint", Precision.FP32), HostFiles.of_folder(phi4 / "checkpoint")
    with pytest.raises(UnsupportedModelError, match="tiles have padding, which ViTAttentionPlugin does not leave out"):
        prepare_images(model, str(phi4 / "checkpoint"), files, ragged=True)
    model.config.vision_config.crop_size = 32
    with pytest.raises(UnsupportedModelError, match="has crop_size 32 and image_size 64"):
        PaddedTower(model, (64, 64))
