"""Prompts before and after their images are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText
from tt_edge.runtime.multimodal.videos.frame_text import FrameText

QWEN = Placeholders("<I>", "<V>")
QWEN3 = Placeholders(
    "<I>",
    "<V>",
    "<s>",
    "</s>",
    frames=FrameText("<{seconds} seconds><s>", "</s><{seconds} seconds><s>", "</s>"),
)
INTERN = Placeholders("<C>", start="<img>", end="</img>")
EAGLE = Placeholders("<C>", start="<img>", end="</img>", numbered=True)


def image(tokens, grid=None, **more):
    return ProcessedImage(np.zeros((1, 1), np.float32), grid, tokens, **more)


def patches(tokens, **more):
    return image(tokens, grid=(1, 2, 2 * tokens), **more)


def test_each_family_as_its_processor_writes_it():
    assert QWEN.expand("a<I>b<I>c", [patches(2), patches(1)])[0] == "a<I><I>b<I>c"
    assert INTERN.expand("a<C>b", [image(3)])[0] == "a<img><C><C><C></img>b"
    assert QWEN3.expand("a<s><I></s>", [patches(2)])[0] == "a<s><I><I></s>"


def test_videos():
    video = patches(4, is_video=True)
    assert QWEN.expand("<V>, <I>", [video, patches(1)])[0] == "<V><V><V><V>, <I>"
    timed = image(4, grid=(2, 2, 4), is_video=True, timestamps=(0.25, 1.25))
    assert QWEN3.expand("<s><V></s>", [timed])[0] == (
        "<s><0.2 seconds><s><V><V></s><1.2 seconds><s><V><V></s></s>"
    )  # fmt: skip
    tiles = ProcessedImage(np.zeros((3, 1), np.float32), None, 6, is_video=True)
    intern = Placeholders("<C>", "<V>", frames=FrameText("F{number}:<b>", "</b>F{number}:<b>", "</b>", "<C>"))
    assert intern.expand("<V>?", [tiles])[0] == "F1:<b><C><C></b>F2:<b><C><C></b>F3:<b><C><C></b>?"
    halved = dataclasses.replace(intern, keep=0.5)
    assert halved.expand("<V>?", [tiles])[0] == "F1:<b><C></b>F2:<b><C></b>F3:<b><C></b>?"
    with pytest.raises(InvalidInputError, match="placeholder 1 is for an image, and is given a video"):
        QWEN.expand("<I>", [video])


def test_numbered_placeholders_put_the_images_in_order():
    one, two = image(1), image(2)
    text, leading, ordered = EAGLE.expand("<image-2>\n<image-1>", [one, two])
    assert text == "<image 2><img><C><C></img>\n<image 1><img><C></img>"
    assert (leading, ordered) == (0, [two, one])
    with pytest.raises(InvalidInputError, match="the prompt has <image-3>, and there are 1 images; count from 1"):
        EAGLE.expand("<image-3>", [one])
    with pytest.raises(InvalidInputError, match="the prompt has 0 placeholders <image-N> for 1 images"):
        EAGLE.expand(f"<image-{'9' * 5000}>", [one])


def test_images_before_the_prompt():
    words = Placeholders("<image>", leading=True)
    assert words.expand("Question: what? Answer:", [image(5)])[:2] == ("Question: what? Answer:", 5)
    with pytest.raises(InvalidInputError, match="takes one image a prompt, and there are 2; give one"):
        words.expand("what", [image(5), image(5)])


@pytest.mark.parametrize(
    ("words", "prompt", "images", "message"),
    [
        (QWEN, "nothing", 1, "the prompt has 0 placeholders <I> for 1 images"),
        (QWEN, "<I>", 0, "the prompt has 1 placeholders <I> for 0 images"),
        (EAGLE, "<image-1>", 2, "the prompt has 1 placeholders <image-N> for 2 images"),
    ],
)
def test_another_number_of_placeholders(words, prompt, images, message):
    with pytest.raises(InvalidInputError, match=message):
        words.expand(prompt, [patches(1)] * images)


def test_whether_a_prompt_places_its_images():
    assert QWEN.are_in("see <V>")
    assert EAGLE.are_in("<image-12>")
    assert not INTERN.are_in("<img>")


@pytest.mark.parametrize(
    ("layout", "text", "rows"),
    [
        (Layout(1, 1), "<s>II<g></s>", [2, 0, 1, 3, 4]),
        (Layout(1, 2, "first"), "<s>II<g>II<c>II</s>", [2, 0, 1, 3, 5, 6, 10, 11, 4]),
    ],
    ids=["one tile", "three"],
)
def test_tokens_around_images_with_learned_rows(layout, text, rows):
    """As Ovis 2: they count among the image's tokens; of those here, the one between two tiles has no row."""
    geometry = VisionGeometry("", TILES, tokens_a_unit=2 + 3, learned_rows=3, tile_size=(28, 28))
    tiles = TileText("<s>", "<c>", "<r>", "<g>", "</s>")
    rule = Placeholders("I", start="<s>", end="<g></s>", tiles=tiles, learned=("<s>", "<g>", "</s>"))
    assert rule.rows(layout, geometry).tolist() == rows
    assert rule.learned_in(layout) == 3
    assert rule.expand("aIb", [image(len(rows), layout=layout)])[0] == f"a{text}b"
