"""A picture, ready for a vision network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ProcessedImage:
    """``pixels`` fp32: patches ``[N, patch_dim]`` of a ``grid``, frames, rows and columns of them; or tiles ``[n, 3, H, W]``.

    ``tokens`` is how many image tokens it takes in a prompt.
    """

    pixels: NDArray[np.float32]
    grid: tuple[int, int, int] | None
    tokens: int

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape, in hex: equal for equal pictures."""
        shape = repr((self.pixels.shape, self.grid)).encode()
        return hashlib.sha256(shape + self.pixels.tobytes()).hexdigest()
