"""Resampling a square table of learned positions to the grid of an image, as PyTorch does it. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import VisionGeometry
from tt_edge.contract.geometry import (
    BICUBIC,
    BICUBIC_ALIGNED,
    BILINEAR,
    BILINEAR_ALIGNED,
    BILINEAR_ANTIALIASED,
    BILINEAR_ZEROS,
)
from tt_edge.runtime.multimodal.images.processed import Grid

Int64s = NDArray[np.int64]
Floats = NDArray[np.float32]

#: PyTorch's "a" of the cubic kernel.
_CUBIC = np.float32(-0.75)


def in_blocks(plane: np.ndarray, merge: int) -> np.ndarray:
    """A plane ``[rows, columns]`` of patches, block by block of ``merge`` squared, flat."""
    rows, columns = plane.shape
    return plane.reshape(rows // merge, merge, columns // merge, merge).swapaxes(1, 2).reshape(-1)


def interpolation(grid: Grid, geometry: VisionGeometry) -> tuple[Int64s, Floats]:
    """For every patch of ``grid``, block by block, entries of the table and their weights.

    Both are ``[t * h * w, position_entries]``.
    """
    frames, height, width = grid
    side, merge = geometry.position_table_side, geometry.merge_size
    axis = _AXES[geometry.position_sampling]
    (rows, row_weights), (columns, column_weights) = axis(height, side), axis(width, side)
    indices = rows[:, None, :, None] * side + columns[None, :, None, :]  # [h, w, taps, taps]
    weights = row_weights[:, None, :, None] * column_weights[None, :, None, :]
    order = in_blocks(np.arange(height * width).reshape(height, width), merge)
    flat = [array.reshape(height * width, -1)[order] for array in (indices, weights)]
    return np.tile(flat[0], (frames, 1)), np.tile(flat[1], (frames, 1)).astype(np.float32)


def _taps(count: int, side: int, *, aligned: bool, cubic: bool, zeros: bool = False) -> tuple[Int64s, Floats]:
    """Entries along one axis of ``side`` for ``count`` patches, and their weights, ``[count, 2 or 4]``.

    Beyond the edge the table has the values of its edge, or ``zeros``.
    """
    places = np.arange(count, dtype=np.float32)
    if aligned:
        at = places * np.float32(side - 1) / np.float32(max(count - 1, 1))
    else:
        at = (places + np.float32(0.5)) * np.float32(side) / np.float32(count) - np.float32(0.5)
    low = np.floor(at)
    offsets = np.arange(-1, 3) if cubic else np.arange(2)
    taps = low[:, None].astype(np.int64) + offsets
    indices = taps.clip(0, side - 1)
    distance = np.abs((at - low)[:, None] - offsets.astype(np.float32))
    if not cubic:
        weights = np.maximum(1 - distance, 0)
        return indices, np.where(taps == indices, weights, 0) if zeros else weights
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return indices, np.where(distance <= 1, near, far)


def _antialiased(count: int, side: int) -> tuple[Int64s, Floats]:
    """Likewise with a triangle as wide as a patch, ``[count, side]``: a weight for each entry."""
    scale = side / count
    support = max(scale, 1.0)
    entries = np.arange(side)
    indices, weights = np.tile(entries, (count, 1)), np.zeros((count, side), np.float32)
    for place in range(count):
        center = scale * (place + 0.5)
        first, end = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), side)
        own = np.maximum(1 - np.abs((entries[first:end] - center + 0.5) / support), 0)
        weights[place, first:end] = own / own.sum()
    return indices, weights


_AXES: dict[str, Callable[[int, int], tuple[Int64s, Floats]]] = {
    BILINEAR: partial(_taps, aligned=False, cubic=False),
    BILINEAR_ALIGNED: partial(_taps, aligned=True, cubic=False),
    BILINEAR_ZEROS: partial(_taps, aligned=False, cubic=False, zeros=True),
    BICUBIC: partial(_taps, aligned=False, cubic=True),
    BICUBIC_ALIGNED: partial(_taps, aligned=True, cubic=True),
    BILINEAR_ANTIALIASED: _antialiased,
}
