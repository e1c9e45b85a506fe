"""Llama 3.2 Vision's canvases: pixels, arrangements and masks are those of transformers' processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import MllamaImageProcessor
from transformers.models.mllama.image_processing_mllama import get_all_supported_aspect_ratios

from tests.runtime.multimodal.images.sample_images import SIZES, assert_same_pixels, photo, settings_of
from tt_edge.contract import (
    ASPECT_RATIO_IDS,
    ASPECT_RATIO_MASK,
    CANVAS_PIXELS,
    WHOLE_IMAGES,
    VisionGeometry,
)
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.crossed.aspect_ratios import arrangements
from tt_edge.runtime.multimodal.crossed.inputs import canvas_inputs
from tt_edge.runtime.multimodal.images import ImageOptions
from tt_edge.runtime.multimodal.images.processors import image_processor_for

SIDE = 56


def geometry_of(most):
    return VisionGeometry("mllama", WHOLE_IMAGES, 17 * most, tile_size=(SIDE, SIDE), tiles=most)


def processor(most, **settings):
    size = {"size": {"height": SIDE, "width": SIDE}, "max_image_tiles": most}
    return image_processor_for(settings_of("MllamaImageProcessor", {**size, **settings}, geometry_of(most)))


@pytest.mark.parametrize("most", [1, 4, 6])
def test_images_of_many_sizes(most):
    sizes = [*SIZES, (112, 112), (113, 112), (56, 224), (224, 57), (60, 60), (2, 2), (300, 301), (3, 700), (56, 55)]
    theirs = MllamaImageProcessor(size={"height": SIDE, "width": SIDE}, max_image_tiles=most)
    photos = [photo(*size) for size in sizes]
    want = theirs(images=[Image.fromarray(image) for image in photos], return_tensors="np")
    ours = processor(most)
    prepared = [ours.process(image) for image in photos]
    got = canvas_inputs(geometry_of(most), prepared)
    np.testing.assert_array_equal(got[ASPECT_RATIO_IDS], want["aspect_ratio_ids"][0])
    np.testing.assert_array_equal(got[ASPECT_RATIO_MASK], want["aspect_ratio_mask"][0])
    assert [image.layout.tiles for image in prepared] == want["num_tiles"][0]
    assert_same_pixels(
        got[CANVAS_PIXELS].reshape(-1, 3, SIDE, SIDE), want["pixel_values"].reshape(-1, 3, SIDE, SIDE), ours.std
    )
    assert {ours.tokens_of(size) for size in sizes} == {17 * most} == {image.tokens for image in prepared}


@pytest.mark.parametrize("most", range(1, 7))
def test_arrangements_are_numbered_as_transformers_does(most):
    assert arrangements(most) == get_all_supported_aspect_ratios(most)


def test_low_detail_is_one_tile():
    assert processor(4).process(photo(200, 300), ImageOptions(low_detail=True)).layout.tiles == 1


def test_images_and_settings_of_another_model():
    settings = {"size": {"height": SIDE, "width": SIDE}, "max_image_tiles": 2}
    with pytest.raises(BundleError, match="makes up to 2 tiles, and the vision network takes 4"):
        image_processor_for(settings_of("MllamaImageProcessor", settings, geometry_of(4)))
    with pytest.raises(
        InvalidInputError, match=r"an image has tiles \(6, 3, 56, 56\), arranged as \(2, 3\); the model takes up to 4"
    ):
        canvas_inputs(geometry_of(4), [processor(6).process(photo(112, 168))])
