"""Llama 3.2 Vision from text and images to tokens: equal to transformers with the checkpoint's own processor."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from examples import run_vlm
from tests.models.tiny_mllama import write_mllama
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import DECODER, VISION
from tt_edge.cli import main
from tt_edge.compile.parity import compare_layers_with
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.vision.crossed.reference import rows_of_image
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.build import build_engine
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
def bundle(checkpoint, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("bundle") / "out.ttedge"
    compile_checkpoint(str(checkpoint), bundle, CompileConfig.of(**LIMITS), EngineTarget())
    return bundle


@pytest.fixture(scope="module")
def llm(bundle):
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


def test_beginnings_are_reused_with_the_same_images_only(llm, theirs):
    """Not even the token before the image is of use with another image, or without one."""
    first, second = f"before all this: {IMAGE}what is it?", f"before all this: {IMAGE}what is it? And then?"
    for prompt, images, reused in [
        (first, PHOTOS[1:2], False),
        (second, PHOTOS[1:2], True),
        (second, PHOTOS[:1], False),
        (first.replace(IMAGE, ""), [], False),
        (f"{second}{IMAGE}", PHOTOS[1:3], False),
        (second, PHOTOS[1:2], True),
    ]:
        [completion] = llm.generate([prompt], GREEDY, images=[images])
        assert (completion.cached_tokens > 20) is reused, (prompt, completion.cached_tokens)
        check(llm, theirs, prompt, images, completion)


def test_a_chat_of_two_turns(llm, theirs):
    """The answer of the first is part of the second's prompt, and its tokens see what they saw when they were generated."""
    picture = {"type": "image", "image": PHOTOS[1]}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "what?"}]}]
    answer = llm.chat(messages, GREEDY)
    check(llm, theirs, llm.apply_chat_template(messages), [PHOTOS[1]], answer, add_special_tokens=False)
    messages += [{"role": "assistant", "content": "a car"}, {"role": "user", "content": "and now?"}]
    second = llm.chat(messages, GREEDY)
    check(llm, theirs, llm.apply_chat_template(messages), [PHOTOS[1]], second, add_special_tokens=False)


def test_penalties_of_tokens_that_have_no_logit(llm):
    """The image token is behind the vocabulary; transformers fails here."""
    config = GenerationConfig(max_new_tokens=4, ignore_eos=True, repetition_penalty=1.3, no_repeat_ngram_size=1)
    [completion] = llm.generate([f"{IMAGE}what?"], config, images=[PHOTOS[:1]])
    assert len({*completion.new_token_ids} - {*completion.input_ids}) == 4


def test_layers_are_compared_on_a_text(llm, theirs, bundle):
    """What ``verify`` shows where logits differ: with keys and values of images, which a text does not need."""
    opened = Bundle.open(bundle)
    found = compare_layers_with(theirs.model, opened.network(), opened.manifest.contract, list(range(3, 12)), 1e-4)
    assert found.first_over is None
    assert len(found.rows) > 20


def test_questions_beside_pytorch(checkpoint, bundle, tmp_path, capsys):
    """Tokens of an answer, too, see what the prompt's last one does."""
    PHOTOS[1].save(tmp_path / "photo.png")
    asked = [
        {"prompt": f"{IMAGE}what is it?", "images": ["photo.png"], "answer": "a car"},
        {"prompt": "hello there", "answer": "yes"},
        {"prompt": f"either {IMAGE} or {IMAGE}?", "images": ["photo.png", "photo.png"], "answer": "one"},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    given = [str(bundle), "--data", str(tmp_path / "asked.jsonl"), "--model", str(checkpoint), "--json"]
    assert main(["eval", *given]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["network"]["asked"] == 3
    assert row["network"]["perplexity"] == pytest.approx(row["pytorch"]["perplexity"], rel=1e-4)


def test_the_example(checkpoint, bundle, tmp_path, capsys):
    PHOTOS[1].save(tmp_path / "photo.png")
    given = ["--model", str(checkpoint), "--from_bundle", str(bundle), "--precision", "FP32", "--enable_pytorch_run"]
    asked = ["--image_path", str(tmp_path / "photo.png"), "--prompt", "what?", "--num_tokens", "6"]
    assert run_vlm.main([*given, *asked]) == 0
    page = capsys.readouterr().out
    assert "PyTorch and TensorRT prompts match: True" in page
    assert "PyTorch and TensorRT outputs match: True" in page
    assert run_vlm.main([*given, "--benchmark", "--isl", "20", "--num_tokens", "2", "--iterations", "1"]) == 0
    assert "20 input tokens, 68 of them image tokens, 2 new" in capsys.readouterr().out
    assert rows_of_image(json.loads((checkpoint / "config.json").read_text())) == 68
    assert rows_of_image({"model_type": "llava"}) == 0


def test_prompts_and_options_that_do_not_fit(llm, checkpoint, tmp_path):
    with pytest.raises(CapacityError, match="images and videos have 272 image tokens, more than max_image_tokens 204"):
        llm.generate([IMAGE * 4], GREEDY, images=[PHOTOS])
    with pytest.raises(InvalidInputError, match=r"has 2 placeholders <\|image\|> for 1 images"):
        llm.generate([IMAGE * 2], GREEDY, images=[PHOTOS[:1]])

    def compiled(**more):
        compile_checkpoint(str(checkpoint), tmp_path / "b", CompileConfig.of(**LIMITS | more), EngineTarget())

    with pytest.raises(InvalidInputError, match="max_image_tokens 60 is less than the 68 of one image"):
        compiled(max_image_tokens=60)
    with pytest.raises(
        UnsupportedModelError, match="by cross-attention, which --backend plugin does not have; omit it"
    ):
        compiled(precision="fp16", backend="plugin")
    with pytest.raises(
        UnsupportedModelError, match="by cross-attention, which --keep-image-tokens does not have; omit it"
    ):
        compiled(keep_image_tokens=0.5)


def test_both_networks_are_built(bundle, tensorrt):
    """TensorRT-RTX takes them; the decoder has the keys and values of images as inputs."""
    opened = Bundle.open(bundle)
    for part in (VISION, DECODER):
        profiles = opened.manifest.part(part).profiles()
        assert build_engine(tensorrt, opened.network(part), profiles, "sm89", io.BytesIO()).bytes
