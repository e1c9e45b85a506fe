"""Tiling as InternVL, Eagle 2 and VILA do it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers import GotOcr2ImageProcessor

from tests.runtime.multimodal.images.sample_images import SIZES, assert_same_pixels, photo, tiled_settings
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.processors import image_processor_for
from tt_edge.runtime.multimodal.images.tiled.arrangements import nearest_ratio, nearest_ratio_in_a_set, ratio_and_area

SIDE = 56


@pytest.mark.parametrize("most", [1, 6, 12])
@pytest.mark.parametrize("size", [*SIZES, (1, 5000), (112, 112), (400, 400)], ids=str)
def test_internvls_pixels_are_those_of_transformers(size, most):
    theirs = GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=most)
    ours = image_processor_for(tiled_settings("internvl", theirs.to_dict(), (SIDE, SIDE), tokens=4))
    got = ours.process(photo(*size))
    want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="np")
    assert_same_pixels(got.pixels, want["pixel_values"], theirs.image_std)
    assert got.tokens == 4 * int(want["num_patches"][0])


@pytest.mark.parametrize(("size", "arrangement"), [
    ((448, 448), (1, 1)), ((480, 640), (4, 3)), ((1080, 1920), (4, 2)), ((1920, 1080), (2, 4)), ((100, 2000), (12, 1)),
    ((3000, 3000), (3, 3)), ((600, 600), (2, 2)),
])  # fmt: skip
def test_eagles_arrangement(size, arrangement):
    """The one of the largest product of covered area (three fifths are enough) and likeness of proportions."""
    tile = (448, 448)
    assert ratio_and_area(size, tile, 1, 12) == arrangement

    def merit(columns, rows):
        area, own, ratio = size[0] * size[1], columns / rows, size[1] / size[0]
        return min(columns * rows * 448 * 448 / area, 0.6) * min(own / ratio, ratio / own)

    every = [(c, r) for c in range(1, 13) for r in range(1, 13) if c * r <= 12]
    assert merit(*arrangement) == max(merit(*pair) for pair in every)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_eagles_pixels(size):
    """Tiles row by row, and the whole image small where there are several; torchvision's bicubic filter."""
    image = {"size": {"height": SIDE, "width": SIDE}, "max_dynamic_tiles": 6, "use_thumbnail": True}
    got = image_processor_for(tiled_settings("eagle2", image, (SIDE, SIDE), tokens=4)).process(photo(*size))
    columns, rows = ratio_and_area(size, (SIDE, SIDE), 1, 6)
    image = torch.from_numpy(photo(*size)).permute(2, 0, 1)
    bicubic = {"interpolation": functional.InterpolationMode.BICUBIC, "antialias": True}
    whole = functional.resize(image, [rows * SIDE, columns * SIDE], **bicubic)
    tiles = [tile for row in whole.split(SIDE, 1) for tile in row.split(SIDE, 2)]
    if len(tiles) > 1:
        tiles.append(functional.resize(image, [SIDE, SIDE], **bicubic))
    want = (torch.stack(tiles).float() / 255 - 0.5) / 0.5
    assert_same_pixels(got.pixels, want.numpy(), [0.5] * 3)
    assert got.tokens == 4 * len(tiles)


def test_of_equals_the_larger_is_taken_for_large_images():
    assert nearest_ratio((56, 56), (56, 56), 1, 12) == (1, 1)
    assert nearest_ratio((560, 560), (56, 56), 1, 12) == (3, 3)


@pytest.mark.parametrize("size", [(80, 100), (75, 100), (31, 57), (100, 125), (60, 25)], ids=str)
@pytest.mark.parametrize(("least", "most"), [(1, 12), (2, 2), (4, 6), (6, 6)])
def test_vilas_arrangement(size, least, most):
    """Of arrangements as near with as many tiles, one after the other in the order of a set: here written as NVIDIA does."""
    ratios = {
        (i, j)
        for n in range(least, most + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if least <= i * j <= most
    }
    best, nearest = (1, 1), float("inf")
    for pair in sorted(ratios, key=lambda pair: pair[0] * pair[1]):
        apart = abs(size[1] / size[0] - pair[0] / pair[1])
        if apart < nearest or (apart == nearest and size[0] * size[1] > 0.5 * SIDE**2 * pair[0] * pair[1]):
            best, nearest = pair, min(apart, nearest)
    assert nearest_ratio_in_a_set(size, (SIDE, SIDE), least, most) == best


def test_settings_that_make_no_sense():
    with pytest.raises(BundleError, match=r"malformed .*5 to 2 tiles"):
        image_processor_for(tiled_settings("internvl", {"min_patches": 5, "max_patches": 2}, (448, 448)))
    with pytest.raises(BundleError, match=r"makes tiles of \(384, 384\), and the vision network takes \(56, 56\)"):
        image_processor_for(tiled_settings("internvl", {"max_patches": 2}, (56, 56)))
    with pytest.raises(UnsupportedModelError, match="pad_during_tiling is True, which tt-edge does not"):
        image_processor_for(tiled_settings("eagle2", {"pad_during_tiling": True}, (448, 448)))


def test_tiles_are_in_reading_order():
    image = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    image[:, SIDE:] = 255
    settings = {"size": {"height": SIDE, "width": SIDE}, "max_dynamic_tiles": 4}
    got = image_processor_for(tiled_settings("eagle2", settings, (SIDE, SIDE))).process(image)
    assert [round(float(tile.mean()), 3) for tile in got.pixels] == [-1, 1, 0]
