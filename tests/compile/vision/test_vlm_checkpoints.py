"""Checkpoints of every family end to end, from text and image files: equal tokens to transformers with its own processor."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.models.vlm_checkpoints import QWEN, TOKENS, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tests.runtime.multimodal.videos.video_files import write_film
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.parity.images.pytorch_videos import prepare_frames
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM
from tt_edge.runtime.multimodal.sources import Video, images_of

NEW = 8
VIDEOS = (*QWEN, "internvl")
LIMITS = CompileConfig.of(precision="fp32", max_batch=3, max_input_len=96, max_seq_len=192, max_image_tokens=64)


def ask_for_flash_attention(checkpoint):
    """As some checkpoints do: in any part of config.json, under any of the names that it has had."""
    settings = json.loads((checkpoint / "config.json").read_text())
    for part in (settings, *(settings[name] for name in ("vision_config", "text_config") if name in settings)):
        part |= {"_attn_implementation": "flash_attention_2", "attn_implementation": "flash_attention_2"}
        part |= {"use_flash_attn": True}
    (checkpoint / "config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module", params=TOKENS)
def both(request, tmp_path_factory):
    """The compiled model and the one in PyTorch. The checkpoint asks for flash-attn, which is not installed."""
    folder = tmp_path_factory.mktemp(request.param)
    ask_for_flash_attention(write_checkpoint(request.param, folder / "checkpoint"))
    compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", LIMITS, EngineTarget())
    with LLM.load(folder / "out.ttedge", "reference") as llm:
        yield request.param, llm, PyTorchVLM(folder / "checkpoint", Precision.FP32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pictures as files: a camera's, one of odd sides that EXIF turns, one with alpha, a grey one."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(photo(60, 80)).save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(33, 57, 1)).save(folder / "turned.jpg", exif=exif, quality=95)
    alpha = np.dstack([photo(41, 41, 2), np.arange(41 * 41, dtype=np.uint8).reshape(41, 41)])
    Image.fromarray(alpha).save(folder / "alpha.png")
    Image.fromarray(photo(50, 30, 3)[..., 0]).save(folder / "grey.webp", lossless=True)
    return [str(folder / name) for name in ("plain.png", "turned.jpg", "alpha.png", "grey.webp")]


def greedy(llm, prompts, images, **more):
    return llm.generate(prompts, GenerationConfig(max_new_tokens=NEW, ignore_eos=True), images=images, **more)


def check(llm, theirs, prompt, images, completion, **more):
    inputs = theirs.inputs(llm, prompt, images, **more)
    assert list(completion.input_ids) == inputs["input_ids"][0].tolist()
    assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)


def test_a_batch_that_mixes_prompts(both, files):
    """No image, one, and several in the middle of the text; BLIP-2 takes one, in front."""
    family, llm, theirs = both
    if family == "blip-2":
        prompts, images = ["what is it?", "Question: where? Answer:"], [[files[0]], [files[1]]]
        more = {}
    else:
        picture = {"type": "image"}
        chats = [
            [{"type": "text", "text": "look: "}, picture, {"type": "text", "text": "what is it?"}],
            [{"type": "text", "text": "hello"}],
            [picture, {"type": "text", "text": " or "}, picture, {"type": "text", "text": " or "}, picture],
        ]
        prompts = [llm.apply_chat_template([{"role": "user", "content": parts}]) for parts in chats]
        images, more = [[files[0]], [], files[1:]], {"add_special_tokens": False}
    for prompt, own, completion in zip(prompts, images, greedy(llm, prompts, images, **more), strict=True):
        check(llm, theirs, prompt, own, completion, **more)


def test_a_template_of_the_older_form(tmp_path):
    """chat_template.json, as LLaVA 1.5 and Qwen2-VL have it: the processor's template, before the tokenizer's own."""
    folder = write_checkpoint("llava", tmp_path / "checkpoint")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert dict(Checkpoint.open(folder).processor_files())["chat_template.jinja"].decode() == template
    (folder / "chat_template.jinja").write_text("newer")
    assert "chat_template.jinja" not in dict(Checkpoint.open(folder).processor_files())
    (folder / "chat_template.jinja").unlink()
    wrong = {
        r"chat_template\.json of .* holds no chat template; download": ("{}", '{"chat_template": ["a"]}'),
        r"chat_template\.json is not valid JSON .*download": ("[1]", "{"),
    }
    for message, content in ((message, content) for message, contents in wrong.items() for content in contents):
        (folder / "chat_template.json").write_text(content)
        with pytest.raises(InvalidInputError, match=message):
            dict(Checkpoint.open(folder).processor_files())


def test_a_chat(both, files):
    family, llm, theirs = both
    if family == "blip-2":
        pytest.skip("BLIP-2 has no chat template")
    messages = [{"role": "user", "content": [{"type": "image", "image": files[0]}, {"type": "text", "text": "what?"}]}]
    completion = llm.chat(messages, GenerationConfig(max_new_tokens=NEW, ignore_eos=True))
    check(llm, theirs, llm.apply_chat_template(messages), images_of(messages), completion, add_special_tokens=False)


def test_a_video(both, files):
    family, llm, theirs = both
    video = Video([photo(40, 60, seed=i) for i in range(3)], fps=2.0)
    if family not in VIDEOS:
        with pytest.raises(UnsupportedModelError, match="this model takes no videos; give its frames as images"):
            llm.vision.processor.tokenize(llm.tokenizer, "what", [video], add_special_tokens=True)
        return
    content = [{"type": "video", "video": list(video.frames), "fps": 2.0}, {"type": "text", "text": "what?"}]
    prompt = llm.apply_chat_template([{"role": "user", "content": content}])
    [completion] = greedy(llm, [prompt], [[video]], add_special_tokens=False)
    check(llm, theirs, prompt, [video], completion, add_special_tokens=False)
    slow = Video(
        [photo(40, 60, seed=i) for i in range(6)], fps=0.25
    )  # Qwen2.5-VL's frames: later positions than the text's
    [completion] = greedy(llm, [prompt], [[slow]], add_special_tokens=False)
    check(llm, theirs, prompt, [slow], completion, add_special_tokens=False)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A second and a half at 20 frames a second, each frame another picture."""
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", [photo(40, 64, seed=i) for i in range(30)], rate=20)


@pytest.mark.parametrize("chosen", [{}, {"fps": 5.0}, {"num_frames": 6}], ids=str)
def test_a_video_file(both, film, chosen):
    """Read and sampled by tt-edge, and by transformers' own processor."""
    family, llm, theirs = both
    part = {"type": "video", "video": film, **chosen}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]
    [video] = images_of(messages)
    if family not in VIDEOS:
        with pytest.raises(UnsupportedModelError, match="this model takes no videos; give its frames as images"):
            llm.vision.processor.tokenize(llm.tokenizer, "what", [video], add_special_tokens=True)
        return
    prompt = llm.apply_chat_template(messages)
    [completion] = greedy(llm, [prompt], [[video]], add_special_tokens=False)
    check(llm, theirs, prompt, [video], completion, add_special_tokens=False)
    inputs = theirs.inputs(llm, prompt, [video], add_special_tokens=False)
    ours = llm.vision.processor.preprocess(video)
    wanted = inputs["pixel_values_videos" if family in QWEN else "pixel_values"].numpy()
    if family in QWEN:
        assert ours.grid == tuple(inputs["video_grid_thw"][0].tolist())
    np.testing.assert_allclose(ours.pixels, wanted, atol=0.05)


def test_frames_that_qwen_vl_utils_prepares(both, files):
    family, llm, theirs = both
    if family not in QWEN:
        pytest.skip("the convention of the Qwen-VL models")
    video = prepare_frames([files[0]] * 4, 1.0, llm.vision.processor.image_processor.patch_size)
    prompt = "<|vision_start|><|video_pad|><|vision_end|>what?"
    [completion] = greedy(llm, [prompt], [[video]])
    check(llm, theirs, prompt, [video], completion)


def test_bad_input(both, files):
    family, llm, _ = both
    asked = (
        "what" if family == "blip-2" else llm.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    )
    with pytest.raises(InvalidInputError, match=r"image nowhere\.png does not exist; give a file"):
        greedy(llm, [asked], [["nowhere.png"]])
    if family == "blip-2":
        with pytest.raises(InvalidInputError, match="takes one image a prompt, and there are 2; give one"):
            greedy(llm, ["what"], [files[:2]])
        return
    with pytest.raises(InvalidInputError, match=r"the prompt has 0 placeholders .* for 1 images; give one for each"):
        greedy(llm, ["what"], [[files[0]]])
    count = LIMITS.limits.max_image_tokens // llm.vision.processor.preprocess(files[0]).tokens + 1
    many = llm.apply_chat_template([{"role": "user", "content": [{"type": "image"}] * count}])
    exact = replace(llm.vision.processor, scale_to_fit=False)  # or else they are made smaller until they fit
    with pytest.raises(
        CapacityError, match="image tokens, more than max_image_tokens 64; give fewer or smaller images"
    ):
        exact.tokenize(llm.tokenizer, many, [files[0]] * count, add_special_tokens=False)
