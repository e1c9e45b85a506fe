"""Videos of families that are found: frames and files to answers, equal to ``generate()`` with the checkpoint's own processor."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests.compile.vision.answers import GREEDY, assert_equal_answers, compiled
from tests.runtime.multimodal.images.sample_images import photo
from tests.runtime.multimodal.videos.video_files import write_film
from tt_edge.config import CompileConfig
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.runtime.multimodal.sources import Video, VideoFile

LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=320, max_seq_len=640, max_image_tokens=320)
#: What a prompt has for a video, by model type.
WORDS = {
    "video_llava": "<video>",
    "muse_glimmer": "<|video|>",
    "cosmos3_edge": "<video>",
    "video_llama_3": "<video>",
    "qwen2_5_omni_thinker": "<vision_start><video><vision_end>",
}
#: Of the film of 30 frames, 20 a second: those whose answers were seen to hang on the rounding of a pixel.
NEAR_TIE = 4500


def film_of(folder, first=0):
    return write_film(folder / f"{first}.mp4", [photo(40, 64, seed=first + i) for i in range(30)], rate=20)


@pytest.mark.parametrize("family", WORDS)
def test_a_video(family, tmp_path):
    """As frames at several rates, as a file, and as a file of which more frames are asked for."""
    word, film = WORDS[family], film_of(tmp_path)
    with compiled(family, tmp_path, LIMITS) as (llm, theirs, _):
        assert llm.vision.processor.placeholders.video_in_prompt in (word, f"<|vision_start|>{word}<|vision_end|>")
        frames = [photo(40, 60, seed=i) for i in range(4)]
        assert_equal_answers(llm, theirs, [(f"{word}what?", [Video(frames, fps=2.0)]), ("hello", [])])
        assert_equal_answers(llm, theirs, [(f"see {word} so", [Video(frames[:3], fps=0.1)])])
        for file in (VideoFile(film), VideoFile(film, fps=4.0), VideoFile(film, count=4)):
            assert_equal_answers(llm, theirs, [(f"see {word}?", [file])])
        if word.startswith("<vision_start>"):  # by which the model finds videos
            named = f"0 placeholders <vision_start><image><vision_end> or {word} for 1 images"
            with pytest.raises(InvalidInputError, match=named):
                llm.generate(["<video>what?"], GREEDY, images=[[Video(frames)]])


def test_what_does_not_move(tmp_path):
    """VideoLLaMA 3 drops the tokens of a frame that are as in the frame before, but for the first; an image is merged otherwise."""
    first, other = photo(40, 60), photo(40, 60).copy()
    other[:, 40:] = 255 - other[:, 40:]  # the right third
    video = Video([first, first, other, other, first], fps=2.0)
    with compiled("video_llama_3", tmp_path, LIMITS) as (llm, theirs, _):
        found = llm.vision.processor.preprocess(video)
        assert found.grid is not None
        tokens = math.prod(found.grid[1:]) // 4
        assert found.groups[:2] == [tokens, 1]
        assert 1 <= found.groups[2] < tokens
        assert found.groups[3] == 1
        assert len(llm.vision.processor.preprocess(first).pixels) == llm.vision.processor.preprocess(first).tokens
        assert_equal_answers(llm, theirs, [("<video>what?", [video]), ("see <image> so", [Image.fromarray(first)])])
        with pytest.raises(
            CapacityError, match=r"the frames have \d+ image_tokens before tokens of what does not move"
        ):
            llm.vision.encoder.encode([llm.vision.processor.preprocess(Video([first] * 100))])


def test_tokens_around_a_video(tmp_path):
    """Cosmos 3 Edge's are written for each frame, in the place of those around the video; Qwen2.5-Omni finds videos by them."""
    video = Video([photo(40, 60, seed=i) for i in range(4)])
    with compiled("cosmos3_edge", tmp_path / "cosmos", LIMITS) as (llm, theirs, _):
        assert_equal_answers(llm, theirs, [("<|vision_start|><video><|vision_end|>what?", [video])])
        with pytest.raises(InvalidInputError, match="the prompt has 0 placeholders"):
            llm.generate(["what?"], GREEDY, images=[[video]])


def test_an_answer_that_hangs_on_a_pixel(tmp_path):
    """Of one film EXAONE 4.5's answer is not that of ``generate()``: two tokens are nearly alike, and pixels are one step apart.

    With tt-edge's pixels transformers gives tt-edge's answer, in fp64, too.
    """
    with compiled("exaone4_5", tmp_path, LIMITS) as (llm, theirs, _):
        video, prompt = VideoFile(film_of(tmp_path, NEAR_TIE), fps=None), "see <video> What happens?"
        greedy = replace(GREEDY, max_new_tokens=8)
        [ours] = llm.generate([prompt], greedy, images=[[video]])
        inputs = theirs.inputs(llm, prompt, [video])
        pixels = torch.from_numpy(llm.vision.processor.preprocess(video).pixels)
        apart = (pixels - inputs["pixel_values_videos"]).abs()
        assert apart.max() < 0.016  # one step of 255
        assert (apart > 1e-5).float().mean() < 0.01
        theirs.model.double()
        answer = theirs.continue_greedily(inputs | {"pixel_values_videos": pixels}, 8, eos_token_id=None)
        assert list(ours.new_token_ids) == answer
