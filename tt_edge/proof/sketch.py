"""Random projections that stand for long vectors, so that an error over a whole vocabulary is known from a few numbers.

Column ``k`` of the signs is bit ``k`` of a hash of the element's index, as -1 or 1. The products of a vector with such columns
have the square of its length as their mean square (Achlioptas, "Database-friendly random projections", 2003), and they are
linear: the sketch of a difference is the difference of the sketches. Over ``n`` vectors of ``COLUMNS`` numbers each, the
estimate of a squared error has a relative standard deviation of ``sqrt(2 / (n * COLUMNS))``: 4.4 % for 32 vectors.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Numbers that stand for one vector.
COLUMNS = 32

#: The lowest fp16 number. A model that never chooses some tokens overwrites their logits with the lowest of its type (Chameleon).
_NEVER = -65504.0

Floats = NDArray[np.float32]


def without_never(logits: np.ndarray) -> np.ndarray:
    """``logits`` with 0 in the place of those that say that a token is never chosen: beside them, any other number is nothing."""
    return np.where(logits <= _NEVER, np.zeros((), logits.dtype), logits)


@lru_cache(maxsize=2)
def _signs(length: int) -> Floats:
    """Float32 ``[length, COLUMNS]`` of -1 and 1: the bits of MurmurHash3's finalizer over the indices 1 to ``length``."""
    x = np.arange(1, length + 1, dtype=np.uint32) * np.uint32(0x9E3779B1)
    for shift, factor in ((15, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    bits = (x[:, None] >> np.arange(COLUMNS, dtype=np.uint32)) & np.uint32(1)
    return bits.astype(np.float32) * 2 - 1


def sketch(vectors: np.ndarray) -> Floats:
    """Float32 ``[n, COLUMNS]`` of ``vectors`` ``[n, length]``."""
    wide = np.asarray(vectors, np.float32)
    result: Floats = wide @ _signs(wide.shape[-1])
    return result


def squared_length(sketches: np.ndarray) -> NDArray[np.float64]:
    """Estimated squared length of each vector, float64 ``[n]``, from its sketch ``[n, COLUMNS]``."""
    squares = np.square(np.asarray(sketches, np.float64))
    result: NDArray[np.float64] = squares.mean(axis=-1)
    return result
