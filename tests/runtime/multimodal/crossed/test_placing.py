"""Which tiles each token sees: as the masks of transformers' processor say."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from tt_edge.contract.seen_tiles import tiles_from, tiles_until
from tt_edge.errors import BundleError, CapacityError
from tt_edge.runtime.multimodal.crossed.placing import place_crossed
from tt_edge.runtime.multimodal.images import Layout, ProcessedImage
from tt_edge.runtime.multimodal.prompt_images import ImageKeys

IMAGE, TILES, A_TILE = 9, 4, 3


def image(tiles, seed=0):
    pixels = np.full((tiles, 3, 2, 2), seed, np.float32)
    return ProcessedImage(pixels, None, TILES * A_TILE, layout=Layout(1, tiles))


def place(ids, images, keys=None):
    return place_crossed(ids, IMAGE, images, TILES, keys or ImageKeys())


@pytest.mark.parametrize(
    "ids",
    [
        [9, 1, 2],
        [1, 9, 2, 3],
        [1, 2, 9],
        [1, 9, 9, 2],
        [1, 9, 2, 9, 3],
        [9, 9, 9],
        [1, 9, 9, 2, 9, 3, 9, 9],
        [1, 9, 2, 9],
        [9, 2, 3, 9, 9, 9, 4, 5, 9, 1],
    ],
    ids=str,
)
def test_every_token_sees_what_the_processors_mask_says(ids):
    images = [image(1 + number % TILES, number) for number in range(ids.count(IMAGE))]
    counts = [each.layout.tiles for each in images]
    placed = place(ids, images)
    want = convert_sparse_cross_attention_mask_to_dense(
        [get_cross_attention_token_mask(ids, IMAGE)], [counts], TILES, len(ids)
    )[0].reshape(len(ids), -1)
    tiles = placed.rows[::A_TILE] // A_TILE  # of all images, in the order in which the network has them
    assert sorted(tiles) == list(range(TILES * len(images)))
    for number, row in zip(placed.indices_at(0, len(ids)), want, strict=True):
        first, until = int(tiles_from(number)), int(tiles_until(number))
        if not row.any():  # before the first image: it sees everything, in a way of its own
            assert (first, until) == (-1, TILES * len(images))
            continue
        assert sorted(tiles[first:until]) == np.flatnonzero(row).tolist()
    assert (placed.indices_at(len(ids) - 1, 4) == placed.indices[-1]).all()
    assert placed.tokens == len(images) * TILES * A_TILE


def test_tokens_without_images():
    none = np.array([-1, -2], np.int32)
    assert (tiles_from(none).tolist(), tiles_until(none).tolist()) == ([0, 0], [0, 0])


def test_beginnings_are_equal_only_with_the_same_images():
    keys, one, other = ImageKeys(), image(1, 1), image(1, 2)
    ids = [1, IMAGE, 2]
    first, again, changed = (place(ids, [each], keys).keys for each in (one, one, other))
    assert first == again
    assert not set(first) & set(changed)  # not even the token before the image
    longer = place([*ids, 3, IMAGE], [one, other], keys)
    assert not set(longer.keys) & set(first)
    placed = place(ids, [one], keys)
    assert placed.keys_at(2, [2, 5, 6]) == [first[2], *(placed.first_key - token for token in (5, 6))]
    assert placed.of_vocabulary(ids) == [1, 2]


def test_prompts_that_do_not_fit():
    with pytest.raises(BundleError, match="has 2 image tokens for 1 images"):
        place([IMAGE, IMAGE], [image(1)])
    with pytest.raises(CapacityError, match="have 4400 tiles, more than 4095; give fewer images"):
        place([IMAGE] * 1100, [image(1)] * 1100)
