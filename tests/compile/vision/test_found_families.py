"""Families whose parts are found in the model: images to answers, equal to ``generate()`` with the checkpoint's own processor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from tests.models.vlm_checkpoints import FOUND_TOKENS, PLACEHOLDERS, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tests.runtime.multimodal.videos.video_files import write_film
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.errors import CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM
from tt_edge.runtime.multimodal.sources import Video, VideoFile, images_of

NEW = 6
#: Prompts of more than 48 tokens are computed in pieces.
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=48, max_seq_len=160, max_image_tokens=64)
#: Tokens of the text that SmolVLM's processor writes of a video, in bytes.
LENGTHS = {"smolvlm": 400}
GREEDY = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)
BLOCKS = ("gemma3", "paligemma", "paligemma2")
PALIGEMMA = ("paligemma", "paligemma2")


@pytest.fixture(scope="module", params=FOUND_TOKENS)
def both(request, tmp_path_factory):
    """The compiled model, the one in PyTorch, and the folder of bundle and checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(request.param, folder / "checkpoint")
    limits = LIMITS.with_limits(dataclasses.replace(LIMITS.limits, max_seq_len=LENGTHS.get(request.param, 160)))
    compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", limits, EngineTarget())
    with LLM.load(folder / "out.ttedge", "reference") as llm:
        yield request.param, llm, PyTorchVLM(folder / "checkpoint", Precision.FP32), folder


def images():
    """Landscape, portrait of odd sides, grey, with alpha."""
    alpha = np.dstack([photo(41, 41, 2), np.full((41, 41), 90, np.uint8)])
    grey = Image.fromarray(photo(30, 50, 3)[..., 0])
    return [Image.fromarray(photo(60, 80)), Image.fromarray(photo(57, 33, 1)), grey, Image.fromarray(alpha)]


def check(theirs, llm, prompt, given, completion):
    inputs = theirs.inputs(llm, prompt, given)
    assert list(completion.input_ids) == inputs["input_ids"][0].tolist()
    assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)


def test_images_to_answers(both):
    """One image, several in the midst of text, none; together, so that some are computed in pieces beside others."""
    family, llm, theirs, _ = both
    wide, tall, grey, alpha = images()
    image = PLACEHOLDERS[family]
    asked = [
        (f"{image}what is it?", [wide]),
        (
            f"look: {image} and {image} so" if family not in BLOCKS else f"{image}so",
            [tall, grey][: 1 if family in BLOCKS else 2],
        ),
        (f"{image}who?", [alpha]),
    ]
    asked += [("hello", [])] if family not in PALIGEMMA else []
    completions = llm.generate([prompt for prompt, _ in asked], GREEDY, images=[given for _, given in asked])
    for (prompt, given), completion in zip(asked, completions, strict=True):
        check(theirs, llm, prompt, given, completion)


def test_another_question_about_the_same_image(both):
    """What of the cache is used again, was computed by the same tokens."""
    family, llm, theirs, _ = both
    tall = images()[1]
    for question in ("what colour is it?", "what colour is that?"):
        prompt = f"{PLACEHOLDERS[family]}{question}"
        [completion] = llm.generate([prompt], GREEDY, images=[[tall]])
        check(theirs, llm, prompt, [tall], completion)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A second and a half at 20 frames a second, each frame another picture."""
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", [photo(40, 64, seed=i) for i in range(30)], rate=20)


def test_videos_to_answers(both, film):
    """Frames, and files as the checkpoint's processor reads them: as it samples, and as asked; in a chat, too."""
    family, llm, theirs, _ = both
    frames = Video([photo(40, 60, seed=i) for i in range(3)], fps=0.03)
    if family not in ("smolvlm", "llava_onevision"):
        with pytest.raises(UnsupportedModelError, match="this model takes no videos; give its frames as images"):
            llm.generate(["what?"], GREEDY, images=[[frames]])
        return
    count = 30 if family == "llava_onevision" else 3  # more frames than its network takes tiles
    asked = [frames, VideoFile(film), VideoFile(film, fps=4.0), VideoFile(film, count=count)]
    for video in asked:
        [completion] = llm.generate(["see <video>?"], GREEDY, images=[[video]])
        check(theirs, llm, "see <video>?", [video], completion)
        ours, inputs = llm.vision.processor.preprocess(video), theirs.inputs(llm, "<video>", [video])
        wanted = inputs["pixel_values" if family == "smolvlm" else "pixel_values_videos"].flatten(0, 1)
        np.testing.assert_allclose(ours.pixels, wanted.numpy(), atol=0.05)
    messages = [{"role": "user", "content": [{"type": "video", "video": film}, {"type": "text", "text": "what?"}]}]
    text = llm.apply_chat_template(messages)
    assert text == theirs.chat_prompt(llm, messages)
    completion = llm.chat(messages, GREEDY)
    inputs = theirs.inputs(llm, text, images_of(messages))
    assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)


def test_pixels_are_the_processors(both):
    family, llm, theirs, _ = both
    for image in images():
        prompt = f"{PLACEHOLDERS[family]}what?"
        _, [ours] = llm.vision.processor.tokenize(llm.tokenizer, prompt, [image], add_special_tokens=True)
        wanted = theirs.inputs(llm, prompt, [image])["pixel_values"].numpy()
        std = np.asarray(theirs.processor.image_processor.image_std, np.float32)[:, None, None]
        steps = np.abs(ours.pixels - wanted.reshape(ours.pixels.shape)) * std * 255
        assert steps.max() < 2.5
        assert (steps > 1.5).mean() < 1e-3


def test_verify(both):
    """PaliGemma answers no text without an image, and its new tokens are not of the block that a prompt is."""
    family, _, _, folder = both
    if family in ("idefics3", "smolvlm"):  # an image's text and tokens are more than one call takes
        with pytest.raises(
            CapacityError, match="50 tokens and 3 new ones, and the compiled model takes 48 in one call"
        ):
            verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
        return
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
    assert report.passed, report.render()
    assert all(row.pictures for row in report.rows) == (family in PALIGEMMA)


def test_errors_name_the_next_step(both):
    family, llm, *_ = both
    image, given = PLACEHOLDERS[family], images()
    if family in PALIGEMMA:
        with pytest.raises(InvalidInputError, match="answers to an image, and the prompt has none; give an image"):
            llm.generate(["what?"], GREEDY)
        with pytest.raises(CapacityError, match=r"tokens that see each other, .* max_input_len 48; shorten the prompt"):
            llm.generate([f"{image}{'what? ' * 9}"], GREEDY, images=[given[:1]])
        return
    with pytest.raises(InvalidInputError, match=r"the prompt has 0 placeholders .* for 1 images; give one for each"):
        llm.generate(["what?"], GREEDY, images=[given[:1]])


def test_a_prompt_longer_than_a_sliding_window_is_refused(tmp_path):
    """PaliGemma 2's layers with a window see each token of the prompt: within the window only."""
    write_checkpoint("paligemma2", tmp_path / "checkpoint")
    longer = dataclasses.replace(LIMITS, limits=dataclasses.replace(LIMITS.limits, max_seq_len=161))
    with pytest.raises(
        UnsupportedModelError, match=r"prompts see beyond its sliding window of 160 tokens.*--max-seq-len 160"
    ):
        compile_checkpoint(str(tmp_path / "checkpoint"), tmp_path / "out.ttedge", longer, EngineTarget())
