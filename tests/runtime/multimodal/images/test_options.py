"""Sizes that are asked for: as qwen-vl-utils and OpenAI have them, and images that are scaled to fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.runtime.multimodal.images.sample_images import assert_same_pixels, photo, tiled_settings
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images import ImageOptions
from tt_edge.runtime.multimodal.images.patched.qwen_vl import QwenVLProcessor
from tt_edge.runtime.multimodal.images.processor_types import STD
from tt_edge.runtime.multimodal.images.processors import image_processor_for

QWEN = QwenVLProcessor()


@pytest.mark.parametrize("size", [(140, 196), (480, 640), (1080, 1920), (60, 3000), (11, 13)])
@pytest.mark.parametrize(
    "asked",
    [
        {"max_pixels": 50_000},
        {"min_pixels": 200_000},
        {"min_pixels": 100_000, "max_pixels": 120_000},
        {"resized_height": 280, "resized_width": 420},
        {"resized_height": 100, "resized_width": 101},
    ],
)
def test_as_qwen_vl_utils_and_transformers(size, asked):
    utils = pytest.importorskip("qwen_vl_utils")
    from transformers import Qwen2VLImageProcessor

    theirs = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    picture = photo(*size)
    image = utils.fetch_image({"image": Image.fromarray(picture), **asked})
    want = theirs(images=image, return_tensors="np")
    got = QWEN.process(picture, ImageOptions(**asked))
    assert got.grid == tuple(want["image_grid_thw"][0])
    assert got.tokens == QWEN.tokens_of(size, ImageOptions(**asked))
    channels = [array.reshape(len(array), 3, -1) for array in (got.pixels, want["pixel_values"])]
    assert_same_pixels(*channels, STD)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_pixels": "50000"}, "max_pixels of an image is '50000'; give a number of pixels"),
        ({"max_pixels": 0}, "max_pixels of an image is 0"),
        ({"min_pixels": True}, "min_pixels of an image is True"),
        ({"min_pixels": 2, "max_pixels": 1}, "min_pixels 2 exceeds its max_pixels 1"),
        ({"resized_height": 28}, "has one of resized_height and resized_width; give both"),
        ({"detail": "huge"}, "detail of an image is 'huge'; give auto, low or high"),
    ],
)
def test_sizes_that_are_none(asked, message):
    with pytest.raises(InvalidInputError, match=message):
        ImageOptions.of(asked)


def test_bounds_of_which_one_is_qwen_vl_utils_own():
    with pytest.raises(InvalidInputError, match="min_pixels 3136 exceeds its max_pixels 100"):
        QWEN.tokens_of((500, 500), ImageOptions(max_pixels=100))


def test_settings_of_qwen_are_refused_by_others():
    for model_type, settings in (("internvl", {"size": 448}), ("blip-2", {"size": {"height": 448, "width": 448}})):
        processor = image_processor_for(tiled_settings(model_type, settings, (448, 448)))
        with pytest.raises(
            InvalidInputError, match="max_pixels, resized_height, resized_width are settings of the Qwen-VL"
        ):
            processor.process(photo(50, 50), ImageOptions(max_pixels=4000))


def test_low_detail():
    low = ImageOptions.of({"detail": "low"})
    assert QWEN.tokens_of((1080, 1920)) == 1222
    assert QWEN.tokens_of((1080, 1920), low) * 28 * 28 <= 512 * 512
    assert QWEN.tokens_of((280, 280), low) == QWEN.tokens_of((280, 280)) == 100
    tiles = image_processor_for(tiled_settings("internvl", {"size": 448}, (448, 448), tokens=256))
    assert tiles.tokens_of((1080, 1920)) > 1000
    assert tiles.tokens_of((1080, 1920), low) == len(tiles.process(photo(108, 192), low).pixels) * 256 == 256


@pytest.mark.parametrize("limit", [1, 4, 64, 1000])
def test_scaled_to_fit(limit):
    tokens = QWEN.tokens_of((1080, 1920), max_tokens=limit)
    assert limit / 2 <= tokens <= limit
    assert QWEN.process(photo(1080, 1920), max_tokens=limit).tokens == tokens
    assert QWEN.tokens_of((56, 56), max_tokens=limit) == min(limit, 4)


@pytest.mark.parametrize(("limit", "tokens"), [(13 * 4, 16), (16, 16), (15, 12), (11, 4), (4, 4), (1, 4)])
def test_tiles_scaled_to_fit(limit, tokens):
    tiles = image_processor_for(tiled_settings("internvl", {"size": 448}, (448, 448), tokens=4))
    picture = np.zeros((400, 1200, 3), np.uint8)
    assert tiles.tokens_of((400, 1200), max_tokens=limit) == tokens
    assert len(tiles.process(picture, max_tokens=limit).pixels) * 4 == tokens


@pytest.mark.parametrize("model_type", ["internvl", "eagle2", "blip-2", "llava"])
def test_strips_that_would_take_gigabytes_are_refused_by_their_size(model_type):
    """1 x 1,000,000 becomes 448 x 1,000,000 on the way to its tiles."""
    settings = {"size": {"height": 448, "width": 448}, "do_pad": model_type == "llava", "do_center_crop": False}
    processor = image_processor_for(tiled_settings(model_type, settings, (448, 448)))
    with pytest.raises(InvalidInputError, match=r"an image of 1 x 1000000 pixels cannot be resized to .*; crop it"):
        processor.tokens_of((1_000_000, 1))
