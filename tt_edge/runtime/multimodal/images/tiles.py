"""InternVL and Eagle 2: an image in tiles, as many as suit its shape, and the whole image small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize
from tt_edge.runtime.multimodal.images.settings import (
    CheckpointSettings,
    height_and_width,
    integer,
    mean_and_std,
    resampling,
)

#: Of an image, at most.
_MOST_TILES = 64
#: Columns and rows of tiles.
Arrangement = tuple[int, int]
#: Height and width of an image and of a tile, the least and the most tiles: the arrangement that suits.
Choice = Callable[[tuple[int, int], tuple[int, int], int, int], Arrangement]


@dataclass(frozen=True)
class TilingProcessor:
    """As ``GotOcr2ImageProcessor`` with ``crop_to_patches``, which InternVL uses, and Eagle 2's own processor."""

    placeholders: Placeholders
    tokens_a_tile: int
    tile_size: tuple[int, int]
    choose: Choice
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = 3

    @classmethod
    def of_internvl(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        return cls._from_settings(settings, nearest_ratio, "min_patches", "max_patches")

    @classmethod
    def of_eagle2(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``."""
        return cls._from_settings(settings, ratio_and_area, "min_dynamic_tiles", "max_dynamic_tiles")

    @classmethod
    def _from_settings(
        cls,
        settings: CheckpointSettings,
        choose: Choice,
        least: str,
        most: str,
    ) -> Self:
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            mean, std = mean_and_std(image)
            found = cls(
                placeholders=settings.placeholders,
                tokens_a_tile=geometry.tokens_a_unit,
                tile_size=height_and_width(image["size"]),
                choose=choose,
                min_tiles=integer(image[least], least, _MOST_TILES),
                max_tiles=integer(image[most], most, _MOST_TILES),
                thumbnail=bool(image.get("use_thumbnail", True)),
                mean=mean,
                std=std,
                resample=resampling(image),
            )
            if image.get("do_center_crop") and height_and_width(image["crop_size"], "crop_size") != found.tile_size:
                raise ValueError(f"crop_size is {image['crop_size']!r:.80}, and tiles are {found.tile_size}")
            if found.min_tiles > found.max_tiles:
                raise ValueError(f"{found.min_tiles} to {found.max_tiles} tiles")
        if found.tile_size != geometry.tile_size:
            raise BundleError(
                f"the image processor makes tiles of {found.tile_size}, and the vision network takes {geometry.tile_size}; "
                "correct preprocessor_config.json and compile again"
            )
        return found

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where one tile has more.

        Raises ``InvalidInputError`` for an image that is too elongated to be resized.
        """
        columns, rows = self._arrangement(size, options, max_tokens)
        return self.tokens_a_tile * self._tiles(columns * rows)

    def _tiles(self, tiles: int) -> int:
        return tiles + (self.thumbnail and tiles > 1)

    def _arrangement(self, size: tuple[int, int], options: ImageOptions, max_tokens: int | None) -> Arrangement:
        refuse_pixel_settings(options)
        most = 1 if options.low_detail else self.max_tiles
        if max_tokens is not None:
            while most > 1 and self.tokens_a_tile * self._tiles(most) > max_tokens:
                most -= 1
        columns, rows = self.choose(size, self.tile_size, min(self.min_tiles, most), most)
        check_resize(size, (rows * self.tile_size[0], columns * self.tile_size[1]))
        return columns, rows

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        size, (height, width) = (image.shape[0], image.shape[1]), self.tile_size
        columns, rows = self._arrangement(size, options, max_tokens)
        whole = resize(image, rows * height, columns * width, self.resample)
        tiles = list(whole.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3))
        if self.thumbnail and len(tiles) > 1:
            tiles.append(resize(image, height, width, self.resample))
        pixels = np.stack([normalize(tile, self.mean, self.std) for tile in tiles])
        return ProcessedImage(pixels, None, len(tiles) * self.tokens_a_tile)


@lru_cache(maxsize=256)
def nearest_ratio(size: tuple[int, int], tile: tuple[int, int], least: int, most: int) -> Arrangement:
    """The arrangement nearest to the image's proportions; of equals the larger, while half of its pixels are in the image."""
    ratio, pixels = size[1] / size[0], size[0] * size[1]
    best, distance = (1, 1), float("inf")
    sides = range(1, most + 1)
    every = [pair for pair in product(sides, sides) if least <= _count(pair) <= most]
    for columns, rows in sorted(every, key=_count):
        apart = abs(ratio - columns / rows)
        if apart < distance or (apart == distance and pixels > 0.5 * tile[0] * tile[1] * columns * rows):
            best, distance = (columns, rows), apart
    return best


@lru_cache(maxsize=256)
def ratio_and_area(size: tuple[int, int], tile: tuple[int, int], least: int, most: int) -> Arrangement:
    """The arrangement whose proportions are the image's and whose pixels are three fifths of the image's or more."""
    ratio, pixels = size[1] / size[0], size[0] * size[1]
    # The first of equals wins, and Eagle 2 has them in the order of a Python set: pairs of integers hash the same everywhere,
    # and what else decides is the order in which they come.
    every: set[Arrangement] = set()
    for sides in (range(1, side + 1) for side in range(least, most + 1)):
        every.update(pair for pair in product(sides, sides) if least <= _count(pair) <= most)

    def suits(arrangement: Arrangement) -> float:
        own = arrangement[0] / arrangement[1]
        return min(_count(arrangement) * tile[0] * tile[1] / pixels, 0.6) * min(own / ratio, ratio / own)

    return max(sorted(every, key=_count), key=suits)


def _count(arrangement: Arrangement) -> int:
    return arrangement[0] * arrangement[1]
