"""Phi-4's: the whole image small, then tiles of it, of which those at the right and below are partly padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import HALF
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize, sampled
from tt_edge.runtime.multimodal.images.settings import (
    CheckpointSettings,
    height_and_width,
    integer,
    mean_and_std,
    resampling,
)
from tt_edge.runtime.multimodal.images.tiled.arrangements import nearest_ratio_in_a_set

#: Of an image, at most; the shortest side of an image in its tiles, in pixels; Pillow's number of the bilinear filter.
_MOST_TILES, _SHORTEST, _BILINEAR = 64, 10, 2
Size = tuple[int, int]


@dataclass(frozen=True)
class _Plan:
    """Rows and columns of tiles; the size in which the image is in them, at the upper left; its rows and columns of patches."""

    rows: int
    columns: int
    inner: Size
    patches: Size


@dataclass(frozen=True)
class PaddedTilesProcessor:
    """As ``Phi4MultimodalImageProcessor``.

    Tiles are squares of ``side`` pixels, of ``patch`` squared pixels a patch. Four patches are a row of features, and behind those
    of a tile are two more, the same for all: the end of a line, and what stands between the tiles and the small whole image.
    """

    placeholders: Placeholders
    side: int
    patch: int
    max_tiles: int
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            mean, std = mean_and_std(image)
            size = height_and_width(image["size"])
            if resampling(image) != 3 or size[0] != size[1]:
                raise ValueError(f"resample is {image['resample']!r:.80} and size {size}, not 3 and a square")
            patch = integer(image["patch_size"], "patch_size", size[0])
            found = cls(
                settings.placeholders,
                size[0],
                patch,
                integer(image["dynamic_hd"], "dynamic_hd", _MOST_TILES),
                mean,
                std,
            )
        if size != geometry.tile_size or found.base**2 + 2 != geometry.tokens_a_unit:
            raise BundleError(
                f"the image processor makes tiles of {size} with {found.base**2} features, and the vision network takes "
                f"{geometry.tile_size} and makes {geometry.tokens_a_unit - 2}; correct preprocessor_config.json and compile again"
            )
        return found

    @property
    def base(self) -> int:
        """Rows of features of a tile, and columns."""
        return -(-(self.side // self.patch) // 2)

    @property
    def most_tiles(self) -> int:
        """With the whole image."""
        return 1 + self.max_tiles

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where one tile has more.

        Raises ``InvalidInputError`` for an image that is too elongated.
        """
        return len(self._rows(self._plan(size, options, max_tokens)))

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        plan, side = self._plan((image.shape[0], image.shape[1]), options, max_tokens), self.side
        canvas = np.full((plan.rows * side, plan.columns * side, 3), 255, np.uint8)
        canvas[: plan.inner[0], : plan.inner[1]] = resize(image, *plan.inner, _BILINEAR)
        pixels = normalize(canvas, self.mean, self.std)
        apart = pixels.reshape(3, plan.rows, side, plan.columns, side).transpose(1, 3, 0, 2, 4)
        tiles = np.concatenate([sampled(pixels, side, side)[None], apart.reshape(-1, 3, side, side)])
        rows = self._rows(plan)
        return ProcessedImage(
            tiles, None, len(rows), rows=rows, size=(canvas.shape[0], canvas.shape[1]), edges=self._edges(plan)
        )

    def _plan(self, size: Size, options: ImageOptions, max_tokens: int | None) -> _Plan:
        refuse_pixel_settings(options)
        most = 1 if options.low_detail else self.max_tiles
        plan = self._planned(size, most)
        while max_tokens is not None and most > 1 and len(self._rows(plan)) > max_tokens:
            most = min(most, plan.rows * plan.columns) - 1
            plan = self._planned(size, max(1, most))
        return plan

    def _planned(self, size: Size, most: int) -> _Plan:
        (height, width), side, patch = size, self.side, self.patch
        columns, rows = math.ceil(width / side), math.ceil(height / side)
        if columns * rows > most:
            columns, rows = nearest_ratio_in_a_set(size, (side, side), 1, most)
        by_width, by_height = side * columns / width, side * rows / height
        inner = (side * rows, int(width * by_height))
        if by_width < by_height:
            inner = (int(height * by_width), side * columns)
        each = side // patch
        missing = (side * rows - inner[0]) // patch, (side * columns - inner[1]) // patch
        patches = each * rows - missing[0], each * columns - missing[1]
        if min(inner) < _SHORTEST or patches[0] <= each * (rows - 1) or patches[1] <= each * (columns - 1):
            raise InvalidInputError(f"an image of {width} x {height} pixels is too elongated for this model; crop it")
        check_resize(size, (side * rows, side * columns))
        return _Plan(rows, columns, inner, patches)

    def _edges(self, plan: _Plan) -> NDArray[np.int64]:
        """``[tiles, 2]``: rows and columns of patches of each tile that are not padding."""
        each = self.side // self.patch
        down, right = (
            [min(each, patches - each * tile) for tile in range(count)]
            for patches, count in zip(plan.patches, (plan.rows, plan.columns), strict=True)
        )
        return np.array([(each, each), *((row, column) for row in down for column in right)], np.int64)

    def _rows(self, plan: _Plan) -> NDArray[np.int64]:
        """The feature row of each token: line by line of all tiles, what stands between, line by line of the whole image."""
        base, unit = self.base, self.base**2 + 2
        inside = np.arange(base**2).reshape(1, base, 1, base)
        tiles = 1 + np.arange(plan.rows * plan.columns).reshape(plan.rows, 1, plan.columns, 1)
        lines = (tiles * unit + inside).reshape(plan.rows * base, plan.columns * base)
        lines = lines[: self._features(plan.patches[0]), : self._features(plan.patches[1])]
        end, between = base**2, base**2 + 1
        parts = [_ended(lines, end), np.array([between]), _ended(inside.reshape(base, base), end)]
        return np.concatenate([part.reshape(-1) for part in parts])

    def _features(self, patches: int) -> int:
        """Of so many patches in a line of tiles: two are one, but not of two tiles."""
        whole, rest = divmod(patches, self.side // self.patch)
        return whole * self.base + -(-rest // 2)


def _ended(lines: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    return np.concatenate([lines, np.full((len(lines), 1), end)], axis=1)
