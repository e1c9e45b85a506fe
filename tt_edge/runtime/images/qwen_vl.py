"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures of nearly their own size, in patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.images.processed import ProcessedImage
from tt_edge.runtime.images.resize import normalize, resize

#: Longest side by shortest, at most (transformers, ``smart_resize``).
_MAX_RATIO = 200


@dataclass(frozen=True)
class QwenVLProcessor:
    """As ``Qwen2VLImageProcessor``: sides to multiples of a token's, pixels between two bounds, two equal frames a patch."""

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resample: int = 3
    placeholder: str = "<|image_pad|>"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], model_config: Mapping[str, Any]) -> Self:
        """From ``preprocessor_config.json``. Raises ``BundleError`` for settings that are malformed."""
        size = settings.get("size") or {}
        try:
            # Like transformers: the older names win where both are there.
            least = settings.get("min_pixels") or size.get("shortest_edge") or cls.min_pixels
            most = settings.get("max_pixels") or size.get("longest_edge") or cls.max_pixels
            return cls(
                patch_size=int(settings.get("patch_size", cls.patch_size)),
                merge_size=int(settings.get("merge_size", cls.merge_size)),
                temporal_patch_size=int(settings.get("temporal_patch_size", cls.temporal_patch_size)),
                min_pixels=int(least),
                max_pixels=int(most),
                mean=tuple(float(x) for x in settings.get("image_mean", cls.mean)),
                std=tuple(float(x) for x in settings.get("image_std", cls.std)),
                resample=int(settings.get("resample", cls.resample)),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"preprocessor_config.json is malformed ({error}); compile the model again") from error

    def process(self, image: NDArray[np.uint8]) -> ProcessedImage:
        """Preprocess a picture ``[H, W, 3]``."""
        height, width = self.size_of(*image.shape[:2])
        pixels = normalize(resize(image, height, width, self.resample), self.mean, self.std)  # [3, H, W]
        return self._patches(np.broadcast_to(pixels, (self.temporal_patch_size, *pixels.shape)))

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The size, in pixels, that a picture is made: multiples of a token's side, the number of pixels within bounds."""
        factor = self.patch_size * self.merge_size
        ratio = max(height, width) / min(height, width)
        if ratio > _MAX_RATIO:
            raise InvalidInputError(
                f"an image of {width} x {height} pixels is longer than {_MAX_RATIO} times its width; crop it"
            )
        rows, columns = (max(1, round(side / factor)) * factor for side in (height, width))
        whole = round(height / factor) * round(width / factor) * factor**2
        if whole > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif whole < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return rows, columns

    def _patches(self, frames: NDArray[np.float32]) -> ProcessedImage:
        """``[t * temporal_patch_size, 3, H, W]`` in patches, block by block of those that become one token."""
        patch, merge, depth = self.patch_size, self.merge_size, self.temporal_patch_size
        count, channels, height, width = frames.shape
        grid = count // depth, height // patch, width // patch
        apart = frames.reshape(
            grid[0], depth, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
        )  # t, depth, channel, row, row in block, y, column, column in block, x
        ordered = apart.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
        pixels = np.ascontiguousarray(ordered).reshape(math.prod(grid), channels * depth * patch * patch)
        return ProcessedImage(pixels, grid, math.prod(grid) // merge**2)
