"""Images in their proportions, of at most so many tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.options import (
    AS_IT_IS,
    LOW_DETAIL_PIXELS,
    ImageOptions,
    refuse_pixel_settings,
)
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor, Size
from tt_edge.runtime.multimodal.images.resize import check_resize
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, integer, mean_and_std, resampling

#: Height and width of an image, pixels of a token's side, the most tokens: its rows and columns of tokens.
Fit = Callable[[Size, int, int], tuple[int, int]]

#: Of Gemma 4's ``max_soft_tokens``.
_SOFT_TOKENS = (70, 140, 280, 560, 1120)


def nearest_grid(size: Size, side: int, most: int) -> tuple[int, int]:
    """Rows and columns of tokens of ``side`` pixels, at most ``most`` in all, whose proportions are nearest to those of ``size``.

    Only an image that is longer than ``most`` times its width has more.
    """
    height, width = size[0] / side, size[1] / side
    ratio = width / height
    if height * width > most:
        height = (most / ratio) ** 0.5
        width = height * ratio
    # Of equals the first wins, and transformers has them in the order of a Python set: integers hash the same everywhere.
    around = list(set(product([math.floor(height), math.ceil(height)], [math.floor(width), math.ceil(width)])))
    fitting = [(rows, columns) for rows, columns in around if rows >= 1 and columns >= 1 and rows * columns <= most]
    if not fitting:
        return max(1, round(height)), max(1, round(width))
    return min(fitting, key=lambda grid: abs(grid[0] / grid[1] - size[0] / size[1]))


def largest_grid(size: Size, side: int, most: int) -> tuple[int, int]:
    """Rows and columns of tokens of ``side`` pixels, at most ``most`` in all, in the proportions of ``size``, rounded down."""
    height, width = size
    scale = math.sqrt(most * side**2 / (height * width))
    rows, columns = (math.floor(scale * each / side) for each in size)
    if not rows:
        return 1, max(1, min(width // height, most))
    return (rows, columns) if columns else (min(height // width, most), 1)


@dataclass(frozen=True)
class BudgetProcessor(GridProcessor):
    """An image has at most ``most_tokens``, in as many rows and columns as ``fit`` says.

    ``positions``: how many rows or columns of patches the model has embeddings for, where a checkpoint says it.
    """

    most_tokens: int = 4096
    fit: Fit = nearest_grid
    positions: int | None = None

    @classmethod
    def of_muse(cls, settings: CheckpointSettings) -> Self:
        """As ``MuseGlimmerImageProcessor``. Raises ``BundleError`` for settings that are malformed."""
        with settings.reading():
            most = integer(settings.image["max_image_tokens"], "max_image_tokens", 1 << 24)
            return cls(**cls._read_muse(settings), most_tokens=most)

    @classmethod
    def of_muse_videos(cls, settings: CheckpointSettings) -> Self:
        """As ``MuseGlimmerVideoProcessor``. Raises as ``of_muse`` does."""
        with settings.reading():
            most = integer(settings.image["max_video_frame_tokens"], "max_video_frame_tokens", 1 << 24)
            return cls(**cls._read_muse(settings), most_tokens=most)

    @classmethod
    def _read_muse(cls, settings: CheckpointSettings) -> dict[str, Any]:
        unsized = replace(settings, image={**settings.image, "size": None})  # which it does not read
        return {**cls.read(unsized), "frames_first": True}

    @classmethod
    def of_gemma4(cls, settings: CheckpointSettings) -> Self:
        """As ``Gemma4ImageProcessor`` and ``Gemma4UnifiedImageProcessor``. Raises as ``of_muse`` does."""
        image, geometry = settings.image, settings.geometry
        patch = math.isqrt(geometry.patch_dim // 3)
        with settings.reading():
            most = integer(image["max_soft_tokens"], "max_soft_tokens")
            if most not in _SOFT_TOKENS:
                raise ValueError(f"max_soft_tokens is {most}, not one of {', '.join(map(str, _SOFT_TOKENS))}")
            own, pool = (integer(image[name], name) for name in ("patch_size", "pooling_kernel_size"))
            if own * pool != patch * geometry.merge_size:
                raise ValueError(
                    f"patch_size {own} and pooling_kernel_size {pool} make tokens of {own * pool} pixels, and the vision network "
                    f"takes {patch * geometry.merge_size}"
                )
            mean, std = mean_and_std(image)
            return cls(
                placeholders=settings.placeholders,
                patch_size=patch,
                merge_size=geometry.merge_size,
                temporal_patch_size=1,
                mean=mean,
                std=std,
                resample=resampling(image),
                channels_last=True,
                geometry=geometry,
                most_tokens=most,
                fit=largest_grid,
                positions=_positions(settings),
            )

    def sizes(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[Size | None, Size]:
        """The size that an image is made; none is asked for. Raises ``InvalidInputError`` for one too large or long."""
        refuse_pixel_settings(options)
        most = self.most_tokens
        if options.low_detail:
            most = min(most, max(1, LOW_DETAIL_PIXELS // self.side**2))
        if max_tokens is not None:
            most = min(most, max_tokens)
        rows, columns = self.fit(size, self.side, most)
        final = rows * self.side, columns * self.side
        if self.positions is not None and max(final) > self.positions * self.patch_size:
            raise InvalidInputError(
                f"an image of {size[1]} x {size[0]} pixels is too elongated for this model, which has positions for "
                f"{self.positions} patches in a row; crop it"
            )
        check_resize(size, final)
        return None, final

    def size_of_frames(self, size: Size, frames: int) -> Size:
        """As that of an image: bounds are of each frame."""
        del frames
        return self.sizes(size, AS_IT_IS, None)[1]


def _positions(settings: CheckpointSettings) -> int | None:
    """Of the tables of Gemma 4 and Gemma 4 Unified. Raises ``ValueError`` for no number."""
    tower = settings.model.get("vision_config") or {}
    names = ("position_embedding_size", "mm_posemb_size")
    return next((integer(tower[name], name) for name in names if tower.get(name) is not None), None)
