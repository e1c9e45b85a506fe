"""Kosmos-2.5's patches beside transformers' processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import Kosmos2_5ImageProcessor

from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images.options import ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import image_processor_for
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.vision_inputs import flattened_inputs

MOST, PATCH, TOKENS = 40, {"height": 7, "width": 5}, 6


def both(made=None):
    """tt-edge's processor, with settings changed to ``made``, and transformers'."""
    theirs = Kosmos2_5ImageProcessor(max_patches=MOST, patch_size=PATCH)
    geometry = VisionGeometry("kosmos-2.5", TILES, TOKENS, patch_dim=3 * 7 * 5, flattened_patches=MOST)
    settings, name = theirs.to_dict() | (made or {}), "Kosmos2_5ImageProcessor"
    given = CheckpointSettings(settings, {}, geometry, Placeholders("<s>", leading=True), processor=name)
    return image_processor_for(given), theirs


@pytest.mark.parametrize("size", [(64, 64), (60, 90), (300, 41), (9, 20), (7, 5), (33, 200)], ids=str)
def test_patches_are_those_of_transformers(size):
    ours, theirs = both()
    got = ours.process(photo(*size))
    want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="pt")["flattened_patches"].numpy()
    made = flattened_inputs([got])
    np.testing.assert_array_equal(made["patch_positions"], want[..., :2])
    np.testing.assert_allclose(made["patches"], want[..., 2:], atol=1e-4)
    assert got.tokens == ours.tokens_of(size) == TOKENS


@pytest.mark.parametrize("flat", [0, 255])
def test_pages_of_one_colour(flat):
    """Whose deviation is none."""
    ours, theirs = both()
    page = np.full((40, 50, 3), flat, np.uint8)
    want = theirs(images=[Image.fromarray(page)], return_tensors="pt")["flattened_patches"].numpy()
    np.testing.assert_allclose(ours.process(page).pixels, want[..., 2:], atol=1e-4)


def test_what_is_refused():
    ours, _ = both()
    with pytest.raises(InvalidInputError, match="an image of 2000 x 2 pixels is too elongated for this model; crop it"):
        ours.process(np.zeros((2, 2000, 3), np.uint8))
    with pytest.raises(InvalidInputError, match="settings of the Qwen-VL models"):
        ours.tokens_of((40, 40), ImageOptions(max_pixels=100))
    with pytest.raises(
        BundleError, match=r"makes up to 50 patches of \(7, 5\) pixels, and the vision network takes 40 of 105"
    ):
        both({"max_patches": 50})
    with pytest.raises(BundleError, match="max_patches is 0, not an integer from 1"):
        both({"max_patches": 0})
