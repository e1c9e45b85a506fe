"""Images of nearly their own size as grids of patches: sides to multiples of a token's, pixels between two bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.contract import IMAGE_TOKENS, VisionGeometry
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.options import (
    AS_IT_IS,
    LOW_DETAIL_PIXELS,
    ImageOptions,
    refuse_pixel_settings,
)
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize, resize_at_once
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, integer, mean_and_std, resampling

#: Longest side by shortest, at most (transformers, ``smart_resize``).
_MAX_RATIO = 200

#: Of the bounds that settings may give: more than all frames of an hour in full HD have.
_MOST_PIXELS = 1 << 40

_WITHOUT_ENDS = VisionGeometry("", IMAGE_TOKENS, 1)

#: Height and width in pixels.
Size = tuple[int, int]

PLACEHOLDERS = Placeholders("<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class PixelBounds:
    """The least and most pixels of an image; of all frames together where ``of_all_frames``."""

    least: int
    most: int
    of_all_frames: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], least: int, most: int, *, of_all_frames: bool = False) -> Self:
        """From a processor's settings, or else the numbers given."""
        size = settings.get("size") or {}
        # Like transformers: the older names win where both are there.
        least = settings.get("min_pixels") or size.get("shortest_edge") or least
        most = settings.get("max_pixels") or size.get("longest_edge") or most
        return cls(
            integer(least, "the least number of pixels", _MOST_PIXELS),
            integer(most, "the largest number of pixels", _MOST_PIXELS),
            of_all_frames,
        )

    def at_most(self, pixels: int) -> PixelBounds:
        """These bounds, and no more than ``pixels``."""
        return replace(self, least=min(self.least, pixels), most=min(self.most, pixels))


def _check_network_takes(geometry: VisionGeometry, patch: int, merge: int, depth: int) -> None:
    """Raise ``ValueError`` for patches of another size than the vision network takes."""
    if merge != geometry.merge_size:
        raise ValueError(f"merge_size is {merge}, and the vision network has {geometry.merge_size}")
    if 3 * depth * patch**2 != geometry.patch_dim:
        raise ValueError(
            f"patch_size {patch} and temporal_patch_size {depth} make patches of {3 * depth * patch**2} numbers, and the vision "
            f"network takes {geometry.patch_dim}"
        )


@dataclass(frozen=True)
class GridProcessor:
    """An image is ``temporal_patch_size`` equal frames, cut into patches.

    ``counts_frames``: bounds are of the pixels of all frames, and an image with a side shorter than a token's is enlarged first.
    ``keeps_ratio``: an image with a short side is enlarged first, without counting frames. ``channels_last``: the numbers of a
    patch are pixel by pixel; ``frames_first``: frame by frame. ``expand``: sides are multiples of so many tokens'.
    ``shares_pixels``: a video's frames share the most pixels of its bounds. Of ``geometry`` it is told whether
    images and their lines have tokens at their ends.
    """

    placeholders: Placeholders = PLACEHOLDERS
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    bounds: PixelBounds = PixelBounds(56 * 56, 28 * 28 * 1280)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = 3
    counts_frames: bool = False
    keeps_ratio: bool = False
    channels_last: bool = False
    frames_first: bool = False
    expand: int = 1
    shares_pixels: bool = False
    geometry: VisionGeometry = _WITHOUT_ENDS

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """As Qwen2-VL's images. Raises ``BundleError`` for settings that are malformed."""
        with settings.reading():
            return cls(**cls.read(settings))

    @classmethod
    def of_glm(cls, settings: CheckpointSettings) -> Self:
        """As ``Glm4vImageProcessor`` and its like."""
        with settings.reading():
            return cls(
                **cls.read(settings, counts_frames=True),
                expand=integer(settings.image.get("patch_expand_factor", 1), "patch_expand_factor"),
            )

    @classmethod
    def of_cosmos_edge(cls, settings: CheckpointSettings) -> Self:
        """As ``Cosmos3EdgeImageProcessor``."""
        with settings.reading():
            return cls(**cls.read(settings, counts_frames=True), channels_last=True)

    @classmethod
    def of_paddle(cls, settings: CheckpointSettings) -> Self:
        """As ``PaddleOCRVLImageProcessor``."""
        with settings.reading():
            return cls(**cls.read(settings), keeps_ratio=True)

    @classmethod
    def of_hunyuan(cls, settings: CheckpointSettings) -> Self:
        """As ``HunYuanVLImageProcessor``, which resizes with the bicubic filter whatever its settings say."""
        with settings.reading():
            return cls(**cls.read(settings) | {"resample": 3})

    @classmethod
    def read(cls, settings: CheckpointSettings, *, counts_frames: bool = False) -> dict[str, Any]:
        """The fields that the settings give. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for malformed ones."""
        image = settings.image
        patch = integer(image["patch_size"], "patch_size")
        merge = integer(image["merge_size"], "merge_size")
        depth = integer(image["temporal_patch_size"], "temporal_patch_size")
        _check_network_takes(settings.geometry, patch, merge, depth)
        mean, std = mean_and_std(image)
        return {
            "placeholders": settings.placeholders,
            "patch_size": patch,
            "merge_size": merge,
            "temporal_patch_size": depth,
            "bounds": PixelBounds.of(image, cls.bounds.least, cls.bounds.most, of_all_frames=counts_frames),
            "mean": mean,
            "std": std,
            "resample": resampling(image),
            "counts_frames": counts_frames,
            "geometry": settings.geometry,
        }

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where a side is one token already."""
        return self._tokens(self.sizes(size, options, max_tokens)[-1])

    def _tokens(self, size: Size) -> int:
        return self.geometry.tokens_of(*(side // self.side for side in size))

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``."""
        asked, final = self.sizes((image.shape[0], image.shape[1]), options, max_tokens)
        if asked is not None:
            image = resize_at_once(image, *asked)
        pixels = normalize(resize(image, *final, self.resample), self.mean, self.std)  # [3, H, W]
        return self.in_patches(np.broadcast_to(pixels, (self.temporal_patch_size, *pixels.shape)))

    def sizes(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[Size | None, Size]:
        """The sizes that an image is made: the one that ``options`` ask for, as qwen-vl-utils computes it, and the final one.

        Raises ``InvalidInputError`` for an image that is too elongated, or too large to be resized.
        """
        asked, bounds, frames = None, self.bounds, self.temporal_patch_size if self.counts_frames else 1
        if options.sets_pixels:
            asked = self._asked(size, options)
            check_resize(size, asked)
        if options.low_detail:
            bounds = bounds.at_most(LOW_DETAIL_PIXELS * frames)
        final, budget = self.size_of(*(asked or size), bounds, frames), max_tokens
        while budget and max_tokens and self._tokens(final) > max_tokens:
            final = self.size_of(*(asked or size), bounds.at_most(budget * self.side**2 * frames), frames)
            budget = budget - 1 if self.geometry.end_rows else 0
        check_resize(asked or size, final)
        return asked, final

    def _asked(self, size: Size, options: ImageOptions) -> Size:
        """The size that qwen-vl-utils' settings ask for. Raises ``InvalidInputError`` where a family has none."""
        refuse_pixel_settings(options)
        return size

    @property
    def most_tiles(self) -> int:
        """One: an image is a grid of patches."""
        return 1

    @property
    def side(self) -> int:
        """Pixels of a token's side."""
        return self.patch_size * self.merge_size

    def size_of(self, height: int, width: int, bounds: PixelBounds | None = None, frames: int = 1) -> tuple[int, int]:
        """The size, in pixels, that an image is made: multiples of a token's side, the number of pixels within ``bounds``.

        Where those are of all ``frames``, frames are counted as the patches hold them, and small ones enlarged first.
        """
        factor, bounds = self.side * self.expand, bounds or self.bounds
        if self.keeps_ratio and height < factor:
            height, width = factor, round(width * factor / height)
        if self.keeps_ratio and width < factor:
            height, width = round(height * factor / width), factor
        count = whole_count = 1
        if bounds.of_all_frames:
            count = frames
            whole_count = round(frames / self.temporal_patch_size) * self.temporal_patch_size
            if min(height, width) < factor:
                scale = max(factor / height, factor / width)
                height, width = int(height * scale), int(width * scale)
        ratio = max(height, width) / min(height, width)
        if ratio > _MAX_RATIO:
            raise InvalidInputError(
                f"an image of {width} x {height} pixels is longer than {_MAX_RATIO} times its width; crop it"
            )
        rows, columns = (max(1, round(side / factor)) * factor for side in (height, width))
        whole = whole_count * round(height / factor) * round(width / factor) * factor**2
        if whole > bounds.most:
            shrink = math.sqrt(count * height * width / bounds.most)
            rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif whole < bounds.least:
            grow = math.sqrt(bounds.least / (count * height * width))
            rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return rows, columns

    def size_of_frames(self, size: Size, frames: int) -> Size:
        """The size that each of so many ``frames`` of a video is made; of this processor, ``bounds`` are a video's."""
        bounds = self.bounds
        if self.shares_pixels:
            bounds = replace(bounds, most=max(1, bounds.most // frames))
        return self.size_of(*size, bounds, frames)

    def by_channel(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """The numbers of patches ``[N, patch_dim]`` by their colour, ``[N, 3, numbers]``."""
        if self.channels_last:
            return patches.reshape(len(patches), -1, 3).swapaxes(1, 2)
        if self.frames_first:
            apart = patches.reshape(len(patches), self.temporal_patch_size, 3, -1)
            return apart.swapaxes(1, 2).reshape(len(patches), 3, -1)
        return patches.reshape(len(patches), 3, -1)

    def in_patches(self, frames: NDArray[np.float32]) -> ProcessedImage:
        """``[t * temporal_patch_size, 3, H, W]`` in patches, block by block of those that become one token."""
        patch, merge, depth = self.patch_size, self.merge_size, self.temporal_patch_size
        count, channels, height, width = frames.shape
        grid = count // depth, height // patch, width // patch
        apart = frames.reshape(
            grid[0], depth, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
        )  # t, depth, channel, row, row in block, y, column, column in block, x
        last = (5, 8, 2, 1) if self.channels_last else (1, 2, 5, 8) if self.frames_first else (2, 1, 5, 8)
        ordered = apart.transpose(0, 3, 6, 4, 7, *last)
        pixels = np.ascontiguousarray(ordered).reshape(math.prod(grid), channels * depth * patch * patch)
        tokens = self.geometry.tokens_of(grid[0] * grid[1] // merge, grid[2] // merge)
        return ProcessedImage(pixels, grid, tokens)
