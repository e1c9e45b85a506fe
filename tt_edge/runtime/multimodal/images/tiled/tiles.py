"""An image in tiles, as many as suit its shape, and the whole image small: InternVL, Eagle 2 and others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.contract import VisionGeometry
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize, resize_at_once
from tt_edge.runtime.multimodal.images.settings import (
    CheckpointSettings,
    height_and_width,
    integer,
    mean_and_std,
    resampling,
)
from tt_edge.runtime.multimodal.images.tiled.arrangements import (
    Arrangement,
    Choice,
    covering,
    largest_canvas,
    least_upscaling,
    nearest_ratio,
    nearest_ratio_in_a_set,
    nearest_ratio_of_16,
    ratio_and_area,
)

#: Of an image, at most.
_MOST_TILES = 64


@dataclass(frozen=True)
class TilingProcessor:
    """As ``GotOcr2ImageProcessor``, which InternVL uses, Eagle 2's own processor, and others that stretch an image to whole tiles.

    ``choose`` is the rule for their number. With a ``thumbnail``, the whole image is one tile more, the ``whole`` first or last,
    where there are several; where ``always``, beside a single tile, too. ``in_one_pass``: it is resized by Pillow at once.
    """

    placeholders: Placeholders
    geometry: VisionGeometry
    tile_size: tuple[int, int]
    choose: Choice
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    whole: str = "last"
    always: bool = False
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = 3
    in_one_pass: bool = False

    @classmethod
    def of_internvl(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        return cls._from_settings(settings, nearest_ratio, "min_patches", "max_patches", "crop_to_patches")

    @classmethod
    def of_eagle2(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``."""
        return cls._from_settings(settings, ratio_and_area, "min_dynamic_tiles", "max_dynamic_tiles")

    @classmethod
    def of_vila(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``; one tile where the checkpoint says nothing of tiles, which no text is written around."""
        image, has_tiles = {"min_tiles": 1, "max_tiles": 1, **settings.image}, "max_tiles" in settings.image
        found = cls._from_settings(replace(settings, image=image), nearest_ratio_in_a_set, "min_tiles", "max_tiles")
        placeholders = found.placeholders if has_tiles else replace(found.placeholders, end="", tiles=None)
        return replace(found, placeholders=placeholders, in_one_pass=True)

    @classmethod
    def of_cohere2(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``."""
        return cls._from_settings(settings, least_upscaling, "min_patches", "max_patches", "crop_to_patches")

    @classmethod
    def of_granite_docling(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``."""
        return cls._from_settings(settings, nearest_ratio_of_16, "min_patches", "max_patches", "crop_to_patches")

    @classmethod
    def of_ovis2(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``."""
        choose = covering if settings.image["use_covering_area_grid"] else nearest_ratio
        found = cls._from_settings(settings, choose, "min_patches", "max_patches", "crop_to_patches")
        return replace(found, whole="first")

    @classmethod
    def of_perception(cls, settings: CheckpointSettings) -> Self:
        """As ``of_internvl``; an image of one tile is there twice."""
        found = cls._from_settings(settings, largest_canvas, "", "max_num_tiles", size="tile_size")
        if settings.image["vision_input_type"] != "thumb+tile":
            return replace(found, max_tiles=1, thumbnail=False)
        return replace(found, whole="first", always=True)

    @classmethod
    def _from_settings(
        cls, settings: CheckpointSettings, choose: Choice, least: str, most: str, crops: str = "", size: str = "size"
    ) -> Self:
        """``least``, ``most``, ``crops`` and ``size`` are names of settings."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            mean, std = mean_and_std(image)
            found = cls(
                placeholders=settings.placeholders,
                geometry=geometry,
                tile_size=height_and_width(image[size], size),
                choose=choose,
                min_tiles=integer(image[least], least, _MOST_TILES) if least else 1,
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
        if crops and not image.get(crops):
            found = replace(found, min_tiles=1, max_tiles=1)
        if len(settings.placeholders.learned) not in (0, geometry.learned_rows):
            raise BundleError(
                f"prompts have {len(settings.placeholders.learned)} tokens with learned rows, and the vision network makes "
                f"{geometry.learned_rows}; compile the model again"
            )
        if found.tile_size != geometry.tile_size:
            raise BundleError(
                f"the image processor makes tiles of {found.tile_size}, and the vision network takes {geometry.tile_size}; "
                "correct preprocessor_config.json and compile again"
            )
        return found

    @property
    def most_tiles(self) -> int:
        """With the thumbnail."""
        return self._tiles(self.max_tiles)

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where one tile has more.

        Raises ``InvalidInputError`` for an image that is too elongated to be resized.
        """
        columns, rows = self._arrangement(size, options, max_tokens)
        return self._tokens(self._layout(columns, rows))

    def _tiles(self, tiles: int) -> int:
        return tiles + (self.thumbnail and (tiles > 1 or self.always))

    def _layout(self, columns: int, rows: int) -> Layout:
        return Layout(rows, columns, self.whole if self._tiles(rows * columns) > rows * columns else "")

    def _tokens(self, layout: Layout) -> int:
        return self.geometry.tokens_a_tile * layout.tiles + self.placeholders.learned_in(layout)

    def _arrangement(self, size: tuple[int, int], options: ImageOptions, max_tokens: int | None) -> Arrangement:
        refuse_pixel_settings(options)
        most = 1 if options.low_detail else self.max_tiles
        if max_tokens is not None:
            # One row or one column of them, whichever has more tokens between tiles.
            while most > 1 and max(self._tokens(self._layout(*sides)) for sides in ((most, 1), (1, most))) > max_tokens:
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
        change = resize_at_once if self.in_one_pass else resize
        whole = change(image, rows * height, columns * width, self.resample)
        tiles = list(whole.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3))
        layout = self._layout(columns, rows)
        if layout.whole:
            tiles.insert(0 if self.whole == "first" else len(tiles), change(image, height, width, self.resample))
        pixels = np.stack([normalize(tile, self.mean, self.std) for tile in tiles])
        own_rows = self.placeholders.rows(layout, self.geometry) if self.geometry.learned_rows else None
        return ProcessedImage(pixels, None, self._tokens(layout), rows=own_rows, layout=layout)
