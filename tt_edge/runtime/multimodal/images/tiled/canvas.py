"""Llama 4: an image in its proportions, in the upper left corner of a canvas of whole tiles, then the whole image small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import HALF
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize
from tt_edge.runtime.multimodal.images.settings import (
    CheckpointSettings,
    height_and_width,
    integer,
    mean_and_std,
    resampling,
)

_MOST_TILES = 64
Size = tuple[int, int]


@dataclass(frozen=True)
class CanvasProcessor:
    """As ``Llama4ImageProcessor``. ``largest``: of the canvases that an image fits into, that in which it becomes largest."""

    placeholders: Placeholders
    tokens_a_tile: int
    tile: int
    max_tiles: int = 16
    largest: bool = False
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    resample: int = 2

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            tile = height_and_width(image["size"])
            if tile[0] != tile[1]:
                raise ValueError(f"size is {tile}, not a square")
            most = integer(image["max_patches"], "max_patches", _MOST_TILES)
            mean, std = mean_and_std(image)
            largest, filter = bool(image["resize_to_max_canvas"]), resampling(image)
            found = cls(settings.placeholders, geometry.tokens_a_unit, tile[0], most, largest, mean, std, filter)
        if tile != geometry.tile_size:
            raise BundleError(
                f"the image processor makes tiles of {tile}, and the vision network takes {geometry.tile_size}; correct "
                "preprocessor_config.json and compile again"
            )
        return found

    @property
    def most_tiles(self) -> int:
        """With the whole image."""
        return self.max_tiles + (self.max_tiles > 1)

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where one tile has more.

        Raises ``InvalidInputError`` for an image that is too elongated to be resized.
        """
        rows, columns = self._canvas(size, options, max_tokens)
        return self.tokens_a_tile * (rows * columns + (rows * columns > 1))

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        rows, columns = self._canvas((image.shape[0], image.shape[1]), options, max_tokens)
        tiles = self._tiles(image, rows, columns)
        if len(tiles) > 1:
            tiles.append(normalize(resize(image, self.tile, self.tile, self.resample), self.mean, self.std))
        layout = Layout(rows, columns, "last" if len(tiles) > 1 else "")
        return ProcessedImage(np.stack(tiles), None, len(tiles) * self.tokens_a_tile, layout=layout)

    def _tiles(self, image: NDArray[np.uint8], rows: int, columns: int) -> list[NDArray[np.float32]]:
        """The tiles of the image in its canvas, ``[3, H, W]`` each, row by row."""
        size, side = (image.shape[0], image.shape[1]), self.tile
        inner = self._inner(size, (rows * side, columns * side))
        check_resize(size, inner)
        canvas = np.zeros((rows * side, columns * side, 3), np.uint8)
        canvas[: inner[0], : inner[1]] = resize(image, *inner, self.resample)
        tiles = canvas.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        return [normalize(tile, self.mean, self.std) for tile in tiles]

    def _canvas(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[int, int]:
        """Rows and columns of tiles."""
        refuse_pixel_settings(options)
        check_resize(size, (self.tile, self.tile))
        most = 1 if options.low_detail else self.max_tiles
        while max_tokens is not None and most > 1 and self.tokens_a_tile * (most + 1) > max_tokens:
            most -= 1
        by_ratio: dict[float, list[tuple[int, int]]] = {}
        for count in range(most, 0, -1):
            for rows in (each for each in range(1, count + 1) if count % each == 0):
                by_ratio.setdefault(rows / (count // rows), []).append((rows, count // rows))
        every = [pair for pairs in by_ratio.values() for pair in pairs]
        sides = np.array(every, np.float32) * np.float32(self.tile)
        scales = (sides / np.array(size, np.float32)).min(axis=1)
        enlarging = scales[scales >= 1]
        best = enlarging if len(enlarging) else scales
        chosen = best.min() if len(enlarging) and not self.largest else best.max()
        return min((pair for pair, scale in zip(every, scales, strict=True) if scale == chosen), key=math.prod)

    def _inner(self, size: Size, canvas: Size) -> Size:
        """The size of the image in its canvas; enlarged at most to a tile's, unless ``largest``."""
        room = canvas
        if not self.largest:
            room = (min(max(size[0], self.tile), canvas[0]), min(max(size[1], self.tile), canvas[1]))
        by_height, by_width = room[0] / size[0], room[1] / size[1]
        if by_width < by_height:
            return max(min(math.floor(size[0] * by_width), room[0]), 1), room[1]
        return room[0], max(min(math.floor(size[1] * by_height), room[1]), 1)
