"""Which tiles of its prompt's images a token sees, as one number. Torch-free.

The tiles of a prompt's images are counted from 0, padding last. A token sees those from ``first`` up to ``until``; ``first`` is -1
for a token before every image, which sees all of them in its own way, and ``until`` is 0 without images. Sessions pass the number
on as ``image_indices``, as other models' rows of feature tables.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int32s = NDArray[np.int32]

_BITS = 12
#: The most tiles that the images of a prompt may have.
MOST_TILES = (1 << _BITS) - 1


def seen_tiles(first: int, until: int) -> int:
    """The number of a token that sees tiles from ``first`` up to ``until``; it is not negative."""
    return (first + 1) << _BITS | until


def tiles_from(numbers: Int32s) -> Int32s:
    """``first`` of each token; 0 where the number is negative, of a token without images."""
    return np.where(numbers >= 0, (numbers >> _BITS) - 1, 0).astype(np.int32)


def tiles_until(numbers: Int32s) -> Int32s:
    """``until`` of each token; 0 where the number is negative."""
    return np.where(numbers >= 0, numbers & MOST_TILES, 0).astype(np.int32)
