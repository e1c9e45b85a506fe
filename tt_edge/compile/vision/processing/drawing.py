"""Synthetic images for vision-language models, used when the user gives none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def drawn(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A colour gradient with stripes and noise, ``[H, W, 3]``."""
    y, x = np.mgrid[:height, :width]
    base = np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], axis=-1)
    base[(x + (seed + 1) * y) % 16 < 5] *= 0.4
    noise = np.random.default_rng(seed).normal(0, 12, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)
