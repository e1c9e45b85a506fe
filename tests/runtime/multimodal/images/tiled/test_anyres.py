"""Features of an image above the checkpoint's maximum, interpolated as PyTorch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.tiled.anyres import AnyResProcessor

SIDE, HIDDEN = 3, 5
RESOLUTIONS = ((28, 84), (84, 28), (56, 56), (84, 112))


@pytest.mark.parametrize("size", [(84, 112), (60, 100), (100, 61), (28, 84)], ids=str)
@pytest.mark.parametrize(("most", "extra"), [(1, 0), (2, 4), (5, 0)])
def test_as_torch_interpolates(size, most, extra):
    """Lines of all tiles as a map of features, each with an end; ``extra`` rows of a tile belong to videos."""
    processor = AnyResProcessor(Placeholders("<image>"), SIDE, (28, 28), RESOLUTIONS, most, SIDE**2 + 1 + extra)
    image = processor.process(photo(*size))
    a_tile = SIDE**2 + 1 + extra
    features = np.random.default_rng(0).standard_normal((len(image.pixels) * a_tile, HIDDEN)).astype(np.float32)
    got = image.rows_of(features, image.rows.reshape(-1))
    assert got.shape == (image.tokens, HIDDEN)
    assert processor.tokens_of(size) == image.tokens
    apart = features.reshape(len(image.pixels), a_tile, HIDDEN)
    full = AnyResProcessor(Placeholders("<image>"), SIDE, (28, 28), RESOLUTIONS, None, a_tile).process(photo(*size))
    lines = features[full.rows[SIDE**2 :]]  # of all tiles, cut to the image's proportions, with ends
    ends = np.flatnonzero(full.rows[SIDE**2 :] == SIDE**2)
    width = int(ends[0]) + 1
    plane = torch.from_numpy(lines.reshape(-1, width, HIDDEN)[:, :-1]).permute(2, 0, 1)
    _, rows, columns = plane.shape
    ratio = (rows * columns / (most * SIDE**2)) ** 0.5
    assert (image.blend is not None) == (ratio > 1.1)
    if ratio > 1.1:
        sizes = [int(rows // ratio), int(columns // ratio)]
        plane = torch.nn.functional.interpolate(plane[None], sizes, mode="bilinear")[0]
    ended = torch.cat([plane, torch.from_numpy(apart[0, SIDE**2])[:, None, None].expand(-1, plane.shape[1], 1)], dim=-1)
    want = np.concatenate([apart[0, : SIDE**2], ended.flatten(1).T.numpy()])
    np.testing.assert_allclose(got, want, atol=1e-5)
