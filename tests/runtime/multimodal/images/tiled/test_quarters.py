"""Idefics 2's images, whole and in quarters, beside transformers' processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import Idefics2ImageProcessor

from tests.runtime.multimodal.images.sample_images import photo, steps_apart
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.options import ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import image_processor_for
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings

SIDE, PATCH, TOKENS = 56, 7, 5
SIZES = {"shortest_edge": 14, "longest_edge": SIDE}


def both(made=None, *, splits=True):
    """tt-edge's processor, with settings changed to ``made``, and transformers'."""
    theirs = Idefics2ImageProcessor(size=SIZES, do_image_splitting=splits)
    geometry = VisionGeometry(
        "idefics2", TILES, TOKENS, tile_size=(SIDE, SIDE), padded_tiles=SIDE // PATCH, whole_tiles=True
    )
    settings, name = theirs.to_dict() | (made or {}), "Idefics2ImageProcessor"
    given = CheckpointSettings(settings, {}, geometry, Placeholders("<image>"), processor=name)
    return image_processor_for(given), theirs


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("size", [(56, 56), (20, 30), (57, 33), (60, 90), (131, 40), (9, 200), (2, 2)], ids=str)
def test_tiles_are_those_of_transformers(size, splits):
    ours, theirs = both(splits=splits)
    got = ours.process(photo(*size))
    want = theirs(images=[[Image.fromarray(photo(*size))]], return_tensors="pt")
    pixels, mask = want["pixel_values"][0].numpy(), want["pixel_attention_mask"][0].numpy()
    height, width = mask.shape[1:]
    steps = steps_apart(got.pixels[:, :, :height, :width], pixels, theirs.image_std)
    assert steps.max() <= 2.01
    assert (steps > 1.01).mean() <= 1e-3
    assert not got.pixels[:, :, height:].any()
    assert not got.pixels[..., width:].any()
    assert got.edges.tolist() == [[tile[:, 0].sum() // PATCH, tile[0].sum() // PATCH] for tile in mask]
    assert got.tokens == ours.tokens_of(size) == TOKENS * len(mask)


def test_images_that_are_not_split():
    ours, _ = both()
    assert ours.tokens_of((60, 90), max_tokens=24) == ours.tokens_of((60, 90), ImageOptions(low_detail=True)) == TOKENS
    with pytest.raises(InvalidInputError, match="an image of 30 x 1 pixels has no quarters; give a larger one"):
        ours.process(np.zeros((1, 30, 3), np.uint8))
    assert ours.tokens_of((1, 30), ImageOptions(low_detail=True)) == TOKENS


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        ({"size": {"shortest_edge": 14, "longest_edge": 112}}, BundleError, "makes images of up to 112 x 112"),
        (
            {"size": {"shortest_edge": 3, "longest_edge": SIDE}},
            BundleError,
            "size.shortest_edge is 3, not an integer from 7",
        ),
        ({"size": {"height": 5, "width": 5}}, UnsupportedModelError, "only longest_edge and shortest_edge"),
        ({"do_resize": False}, UnsupportedModelError, "the image processor's setting do_resize is False"),
    ],
)
def test_settings_that_do_not_fit(made, error, message):
    with pytest.raises(error, match=message):
        both(made)
