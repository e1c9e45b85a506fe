"""Phi-4's tiles, of which those at the right and below are partly padding, beside transformers' processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import Phi4MultimodalImageProcessor

from tests.runtime.multimodal.images.sample_images import photo, steps_apart
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images.options import ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import image_processor_for
from tt_edge.runtime.multimodal.images.resize import sampled
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings

SIDE, PATCH, BASE = 64, 2, 16


def both(most, made=None):
    """tt-edge's processor, with settings changed to ``made``, and transformers'."""
    theirs = Phi4MultimodalImageProcessor(size={"height": SIDE, "width": SIDE}, patch_size=PATCH, dynamic_hd=most)
    geometry = VisionGeometry("phi4_multimodal", TILES, BASE**2 + 2, tile_size=(SIDE, SIDE), padded_tiles=SIDE // PATCH)
    settings, name = theirs.to_dict() | (made or {}), "Phi4MultimodalImageProcessor"
    return image_processor_for(
        CheckpointSettings(settings, {}, geometry, Placeholders("<image>"), processor=name)
    ), theirs


@pytest.mark.parametrize("most", [4, 12])
@pytest.mark.parametrize("size", [(64, 64), (60, 80), (41, 41), (65, 128), (129, 300), (200, 90), (30, 200)], ids=str)
def test_tiles_are_those_of_transformers(size, most):
    ours, theirs = both(most)
    got = ours.process(photo(*size))
    want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="pt")
    steps = steps_apart(got.pixels, want["image_pixel_values"][0].numpy(), theirs.image_std)
    assert steps.max() <= 2.01
    assert (steps > 1.01).mean() <= 1e-4  # one in ten thousand, of images this small
    assert got.tokens == ours.tokens_of(size) == int(want["num_img_tokens"][0])
    assert list(got.size) == want["image_sizes"][0].tolist()
    mask = want["image_attention_mask"][0]
    assert got.edges.tolist() == [[int(tile[:, 0].sum()), int(tile[0].sum())] for tile in mask]


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 128, 192), (3, 130, 64)], ids=str)
def test_bicubic_samples_are_pytorchs(shape):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    want = functional.interpolate(image[None], (64, 64), mode="bicubic", align_corners=False)[0]
    np.testing.assert_allclose(sampled(image.numpy(), 64, 64), want.numpy(), atol=1e-5)


def test_fewer_tiles():
    """Where fewer tokens are to be had, or OpenAI's ``detail`` is low."""
    ours, _ = both(12)
    full = ours.tokens_of((150, 400))
    fewer = ours.tokens_of((150, 400), max_tokens=full - 1)
    assert fewer < full
    one = ours.process(photo(150, 400), ImageOptions(low_detail=True))
    assert len(one.pixels) == 2
    assert one.tokens == ours.tokens_of((150, 400), max_tokens=1)


def test_rows_of_features():
    """Lines of the tiles, each with its end, then one row, then those of the whole image."""
    ours, _ = both(4)
    rows = ours.process(photo(64, 96)).rows.tolist()
    end, between, unit = BASE**2, BASE**2 + 1, BASE**2 + 2
    assert rows.count(between) == 1
    lines, whole = rows[: rows.index(between)], rows[rows.index(between) + 1 :]
    assert whole == [each for line in range(BASE) for each in [*range(line * BASE, (line + 1) * BASE), end]]
    first = [*range(unit, unit + BASE), *range(2 * unit, 2 * unit + BASE)]  # of which 96 of 128 pixels are the image's
    assert lines[:25] == [*first[:24], end]


def test_what_is_refused():
    ours, _ = both(4)
    with pytest.raises(
        InvalidInputError, match="an image of 4000 x 20 pixels is too elongated for this model; crop it"
    ):
        ours.tokens_of((20, 4000))
    with pytest.raises(
        BundleError, match=r"makes tiles of \(64, 64\) with 1024 features, and the vision network takes"
    ):
        both(4, made={"patch_size": 1})
