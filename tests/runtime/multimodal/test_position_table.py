"""Tables of positions resampled to grids: PyTorch's interpolation, at grids smaller and larger than the table, and strips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tt_edge.contract import IMAGE_TOKENS, VisionGeometry
from tt_edge.contract.geometry import (
    BICUBIC,
    BICUBIC_ALIGNED,
    BILINEAR,
    BILINEAR_ALIGNED,
    BILINEAR_ANTIALIASED,
    BILINEAR_ZEROS,
)
from tt_edge.runtime.multimodal.position_table import in_blocks, interpolation

#: By sampling: PyTorch's settings, and entries a patch of a table of 6 x 6.
SAMPLINGS = {
    BILINEAR: ({"mode": "bilinear"}, 4),
    BILINEAR_ALIGNED: ({"mode": "bilinear", "align_corners": True}, 4),
    BICUBIC: ({"mode": "bicubic"}, 16),
    BICUBIC_ALIGNED: ({"mode": "bicubic", "align_corners": True}, 16),
    BILINEAR_ANTIALIASED: ({"mode": "bilinear", "antialias": True}, 36),
}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("grid", [(1, 2, 4), (2, 6, 6), (1, 14, 10), (1, 2, 40)], ids=str)
def test_interpolation(sampling, grid):
    settings, entries = SAMPLINGS[sampling]
    geometry = VisionGeometry("", IMAGE_TOKENS, 1, merge_size=2, position_table_side=6, position_sampling=sampling)
    frames, height, width = grid
    table = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
    plane = table.T.reshape(1, 3, 6, 6)
    resized = functional.interpolate(plane, size=(height, width), **settings)[0].flatten(1).T.numpy()
    order = in_blocks(np.arange(height * width).reshape(height, width), 2)
    indices, weights = interpolation(grid, geometry)
    assert (
        indices.shape
        == weights.shape
        == (frames * height * width, entries)
        == (len(weights), geometry.position_entries)
    )
    got = (table.numpy()[indices] * weights[:, :, None]).sum(1)
    assert np.abs(got - np.tile(resized[order], (frames, 1))).max() < 1e-5
    assert geometry.samples_all == (sampling == BILINEAR_ANTIALIASED)


@pytest.mark.parametrize("grid", [(1, 2, 4), (1, 14, 10), (1, 2, 40)], ids=str)
def test_beyond_the_edge_are_zeros(grid):
    """As ``grid_sample`` with ``padding_mode="zeros"`` does it (Muse Glimmer)."""
    geometry = VisionGeometry(
        "", IMAGE_TOKENS, 1, merge_size=2, position_table_side=6, position_sampling=BILINEAR_ZEROS
    )
    _, height, width = grid
    table = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
    y, x = ((torch.arange(size) + 0.5) / size * 2 - 1 for size in (height, width))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    want = functional.grid_sample(
        table.T.reshape(1, 3, 6, 6), places, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    order = in_blocks(np.arange(height * width).reshape(height, width), 2)
    indices, weights = interpolation(grid, geometry)
    got = (table.numpy()[indices] * weights[:, :, None]).sum(1)
    assert np.abs(got - want[0].flatten(1).T.numpy()[order]).max() < 1e-5
