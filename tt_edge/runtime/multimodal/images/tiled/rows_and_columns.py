"""Idefics 3 and SmolVLM: tiles in rows and columns, which the prompt names, then the whole image small."""

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
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, integer, mean_and_std, resampling

#: The longest side, in pixels, of an image before it is tiled.
MOST_SIDE = 4096
Size = tuple[int, int]


@dataclass(frozen=True)
class RowsAndColumnsProcessor:
    """As ``Idefics3ImageProcessor`` and ``SmolVLMImageProcessor``.

    An image is scaled until its longer side is ``longest_edge``, then to whole tiles of ``tile`` pixels a side; without
    ``splits`` it is one tile.
    """

    placeholders: Placeholders
    tokens_a_tile: int
    tile: int
    longest_edge: int | None
    splits: bool = True
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    resample: int = 1

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            mean, std = mean_and_std(image)
            tile = integer(image["max_image_size"]["longest_edge"], "max_image_size")
            resizes = image.get("do_resize", True)
            edge = integer(image["size"]["longest_edge"], "size.longest_edge")
            found = cls(
                placeholders=settings.placeholders,
                tokens_a_tile=geometry.tokens_a_unit,
                tile=tile,
                longest_edge=edge if resizes else None,
                splits=bool(image["do_image_splitting"]),
                mean=mean,
                std=std,
                resample=resampling(image),
            )
        if (tile, tile) != geometry.tile_size:
            raise BundleError(
                f"the image processor makes tiles of {tile} x {tile}, and the vision network takes {geometry.tile_size}; correct "
                "preprocessor_config.json and compile again"
            )
        return found

    @property
    def most_tiles(self) -> int:
        """Those of a square image of ``longest_edge``, and the whole image."""
        side = math.ceil((self.longest_edge or MOST_SIDE) / self.tile) if self.splits else 1
        return side * side + (side > 1)

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where one tile has more.

        Raises ``InvalidInputError`` for an image that is too elongated to be resized.
        """
        _, rows, columns = self._sizes(size, options, max_tokens)
        return self.tokens_a_tile * (rows * columns + 1)

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        first, rows, columns = self._sizes((image.shape[0], image.shape[1]), options, max_tokens)
        side, tiles = self.tile, []
        image = resize(image, *first, self.resample)
        if rows:
            image = resize(image, rows * side, columns * side, self.resample)
            tiles = list(image.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3))
        tiles.append(resize(image, side, side, self.resample))
        pixels = np.stack([normalize(tile, self.mean, self.std) for tile in tiles])
        layout = Layout(rows, columns, "last") if rows else Layout(1, 1)
        return ProcessedImage(pixels, None, len(tiles) * self.tokens_a_tile, layout=layout)

    def _sizes(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[Size, int, int]:
        """The size of the first scaling, and the rows and columns of tiles; 0 for an image of one tile."""
        refuse_pixel_settings(options)
        edge, least = self.longest_edge, self.tile
        if options.low_detail:
            edge = least
        found = self._tiled(size, edge)
        while max_tokens is not None and found[1] and self.tokens_a_tile * (found[1] * found[2] + 1) > max_tokens:
            edge = max(least, (max(found[0]) if edge is None else edge) - least)
            found = self._tiled(size, edge)
        return found

    def _tiled(self, size: Size, edge: int | None) -> tuple[Size, int, int]:
        first = size if edge is None else _scaled(size, edge)
        check_resize(size, first)
        if not self.splits:
            return first, 0, 0
        height, width = first
        ratio = width / height
        if width >= height:
            columns = math.ceil(width / self.tile)
            rows = math.ceil(int(columns * self.tile / ratio) / self.tile)
        else:
            rows = math.ceil(height / self.tile)
            columns = math.ceil(int(rows * self.tile * ratio) / self.tile)
        rows, columns = max(rows, 1), max(columns, 1)
        check_resize(first, (rows * self.tile, columns * self.tile))
        return (first, rows, columns) if rows * columns > 1 else (first, 0, 0)


def _scaled(size: Size, edge: int) -> Size:
    """``(height, width)`` with the longer side ``edge`` and the shorter side even, and neither above ``MOST_SIDE``."""
    height, width = size
    ratio = width / height
    if width >= height:
        height, width = int(edge / ratio), edge
        height += height % 2
    else:
        height, width = edge, int(edge * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height and width > MOST_SIDE:
        height, width = int(MOST_SIDE / ratio), MOST_SIDE
    elif height > MOST_SIDE:
        height, width = MOST_SIDE, int(MOST_SIDE * ratio)
    return max(height, 1), max(width, 1)
