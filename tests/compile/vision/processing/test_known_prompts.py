"""What stands for images in the prompts of the families that are not asked for it."""

from __future__ import annotations

import pytest

from tt_edge.compile.vision.families import FAMILIES, KNOWN, Blocks
from tt_edge.compile.vision.processing.known_prompts import KNOWN_PROMPTS
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import PROCESSORS
from tt_edge.runtime.multimodal.videos.frame_text import FrameText
from tt_edge.runtime.multimodal.videos.processors import VIDEO_TYPES

QWEN, TIME = ("<|vision_start|>", "<|vision_end|>"), "<{seconds} seconds>"
IMG = {"start_image_token": "<i>", "extra_special_tokens": {"end_image_token": "</i>"}}


@pytest.mark.parametrize(
    ("model_type", "config", "placeholders"),
    [
        ("qwen2_vl", {}, Placeholders("<I>", "<V>")),
        ("llava", IMG, Placeholders("<I>")),
        ("blip-2", {}, Placeholders("<I>", leading=True)),
        ("paligemma", {"bos_token": {"content": "<b>"}}, Placeholders("<I>", before_text="<b>")),
        (
            "gemma3",
            {"boi_token": "<s>", "eoi_token": "<e>"},
            Placeholders("<I>", None, "\n\n<s>", "<e>\n\n", written="<s>"),
        ),
        ("eagle2", IMG, Placeholders("<I>", None, "<i>", "</i>", numbered=True)),
        (
            "eagle2",
            {"start_image_token": {"content": "<i>"}, "end_image_token": None},
            Placeholders("<I>", None, "<i>", "</img>", numbered=True),
        ),
        ("eagle2", {"extra_special_tokens": None}, Placeholders("<I>", None, "<img>", "</img>", numbered=True)),
    ],
)
def test_placeholders(model_type, config, placeholders):
    assert KNOWN_PROMPTS[model_type].placeholders("<I>", "<V>", config) == placeholders


@pytest.mark.parametrize(
    ("model_type", "config", "placeholders"),
    [
        (
            "qwen3_vl",
            IMG,
            Placeholders(
                "<I>", "<V>", *QWEN, frames=FrameText(f"{TIME}{QWEN[0]}", f"{QWEN[1]}{TIME}{QWEN[0]}", QWEN[1])
            ),
        ),
        (
            "internvl",
            {**IMG, "video_token": {"content": "<v>"}},
            Placeholders(
                "<I>",
                "<v>",
                "<i>",
                "</i>",
                frames=FrameText("Frame{number}: <i>", "</i>\nFrame{number}: <i>", "</i>", "<I>"),
            ),
        ),
        ("llava_onevision", {}, Placeholders("<I>", "<video>")),
    ],
)
def test_placeholders_of_videos(model_type, config, placeholders):
    """The model's token for a video, or else the tokenizer's, or else the processor's."""
    video = None if model_type != "qwen3_vl" else "<V>"
    assert KNOWN_PROMPTS[model_type].placeholders("<I>", video, config) == placeholders


def test_families_whose_parts_are_known_have_known_prompts():
    """But where the processor and the decoder's call are asked, which say who sees whom: Phi-4, and those without blocks."""
    with_blocks = {kind for kind, facts in KNOWN.items() if facts.blocks is not Blocks.NONE}
    assert (FAMILIES.keys() - {"phi4_multimodal"}) | with_blocks <= KNOWN_PROMPTS.keys()
    assert {known.processor for known in KNOWN_PROMPTS.values()} <= PROCESSORS.keys()
    assert {known.video for known in KNOWN_PROMPTS.values() if known.video} <= VIDEO_TYPES.keys()
