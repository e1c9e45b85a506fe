"""Llama 3.2 Vision from text and images to tokens: equal to transformers with the checkpoint's own processor."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.runtime.multimodal.images.sample_images import photo
from tests.tiny_mllama import write_mllama
from tt_edge.compile.parity.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM

NEW = 8
GREEDY = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)
LIMITS = {"precision": "fp32", "max_batch": 3, "max_input_len": 24, "max_seq_len": 160, "max_image_tokens": 3 * 68}
PHOTOS = [Image.fromarray(photo(*size, seed)) for seed, size in enumerate([(28, 28), (60, 80), (20, 90), (57, 33)])]
IMAGE = "<|image|>"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_mllama(tmp_path_factory.mktemp("mllama") / "checkpoint")


@pytest.fixture(scope="module")
def theirs(checkpoint):
    return PyTorchVLM(checkpoint, Precision.FP32)


@pytest.fixture(scope="module")
def llm(checkpoint, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("bundle") / "out.ttedge"
    compile_checkpoint(str(checkpoint), bundle, CompileConfig.of(**LIMITS), EngineTarget())
    with LLM.load(bundle, "reference") as llm:
        yield llm


def check(llm, theirs, prompt, images, completion, **more):
    inputs = theirs.inputs(llm, prompt, images, **more)
    assert list(completion.input_ids) == inputs["input_ids"][0].tolist()
    assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)


def test_a_batch_that_mixes_prompts(llm, theirs):
    """None, one, and several images, side by side and apart; prompts are longer than one call takes."""
    prompts = {
        f"{IMAGE}what is it?": PHOTOS[1:2],
        "a text that is longer than a call, without images": [],
        f"look: {IMAGE}{IMAGE} or {IMAGE} then?": PHOTOS[:3],
        f"the first: {IMAGE}, the other: {IMAGE}": PHOTOS[2:],
        f"{IMAGE}": PHOTOS[3:],
        "hello": [],
        f"{IMAGE}{IMAGE}<s>which?": PHOTOS[:2],
    }
    found = llm.generate(list(prompts), GREEDY, images=list(prompts.values()))
    for (prompt, images), completion in zip(prompts.items(), found, strict=True):
        check(llm, theirs, prompt, images, completion)


def test_images_change_the_answer(llm):
    """The tokens of one prompt with four images: what is compared with transformers is not blind to them."""
    found = llm.generate([f"before {IMAGE} what?"] * 4, GREEDY, images=[[each] for each in PHOTOS])
    assert len({tuple(completion.new_token_ids) for completion in found}) == 4
