"""An image in one size: LLaVA, BLIP-2, Janus and others."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize, resize_at_once
from tt_edge.runtime.multimodal.images.settings import (
    CheckpointSettings,
    height_and_width,
    integer,
    mean_and_std,
    numbers,
    resampling,
)


@dataclass(frozen=True)
class SquareProcessor:
    """As ``CLIPImageProcessor``, ``LlavaImageProcessor`` and ``BlipImageProcessor``.

    ``shortest_edge`` keeps proportions, and the middle of ``tile_size`` is cut out; without it the image is stretched.
    ``pad`` makes it a square before, with this colour around it. ``least_side``: as ``JanusImageProcessor``, which makes the longer
    side that of the square, the shorter one no less than this, and the square behind, with the colour ``pad`` or stretched.
    ``in_one_pass``: as ``VideoLlavaImageProcessor``, which resizes with Pillow.
    """

    placeholders: Placeholders
    tokens: int
    tile_size: tuple[int, int]
    shortest_edge: int | None = None
    pad: tuple[int, ...] | None = None
    least_side: int | None = None
    in_one_pass: bool = False
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = 3

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            size, crops = image["size"], bool(image.get("do_center_crop"))
            edge = size.get("shortest_edge") if isinstance(size, dict) else None
            if edge is not None and not crops:
                raise ValueError("size has a shortest_edge, and without do_center_crop images have many sizes")
            tile = height_and_width(image["crop_size"], "crop_size") if crops else height_and_width(size)
            if crops and edge is None and height_and_width(size) != tile:
                raise ValueError(f"size is {size!r:.80}, of which the crop_size {tile} would be cut out")
            mean, std = mean_and_std(image)
            colour = tuple(int(255 * part) for part in numbers(image["image_mean"], "image_mean", 0, 1))
            found = cls(
                placeholders=settings.placeholders,
                tokens=geometry.tokens_a_tile,
                tile_size=tile,
                shortest_edge=None if edge is None else integer(edge, "size.shortest_edge"),
                pad=colour if image.get("do_pad") else None,
                mean=mean,
                std=std,
                resample=resampling(image),
            )
        if found.tile_size != geometry.tile_size:
            raise BundleError(
                f"the image processor makes images of {tile}, and the vision network takes {geometry.tile_size}; correct "
                "preprocessor_config.json and compile again"
            )
        return found

    @classmethod
    def within_square(cls, settings: CheckpointSettings) -> Self:
        """Of a class that pads after resizing. Raises as ``from_settings``."""
        found = cls.from_settings(settings)
        with settings.reading():
            least = integer(settings.image["min_size"], "min_size")
            if found.tile_size[0] != found.tile_size[1] or found.pad is None:
                raise ValueError(
                    f"size is {found.tile_size} with do_pad {settings.image.get('do_pad')!r:.80}, not a padded square"
                )
        return replace(found, least_side=least)

    @classmethod
    def at_once(cls, settings: CheckpointSettings) -> Self:
        """Of a class that resizes with Pillow in one pass. Raises as ``from_settings``."""
        return replace(cls.from_settings(settings), in_one_pass=True)

    @property
    def most_tiles(self) -> int:
        """One: the image."""
        return 1

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """As many for every image. Raises ``InvalidInputError`` for one that is much longer than wide."""
        refuse_pixel_settings(options)
        height, width = size
        if self.pad is not None and self.least_side is None:
            height = width = max(height, width)
            check_resize(size, (height, width))  # the square is as large as what is made of it
        check_resize((height, width), self._resized(height, width))
        return self.tokens

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        self.tokens_of((image.shape[0], image.shape[1]), options)
        return ProcessedImage(normalize(self.cut(image), self.mean, self.std)[None], None, self.tokens)

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square ``[side, side, 3]`` of an image whose size ``tokens_of`` takes."""
        if self.pad is not None and self.least_side is None:
            image = _padded_to_square(image, self.pad)
        change = resize_at_once if self.in_one_pass else resize
        cut = change(image, *self._resized(*image.shape[:2]), self.resample)
        if self.pad is not None and self.least_side is not None:
            cut = _padded_to_square(cut, self.pad)
        if self.shortest_edge is not None:
            cut = _middle(cut, *self.tile_size)
        return cut

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the middle is cut out."""
        if self.least_side is not None:
            scale = self.tile_size[0] / max(height, width)
            return max(round(height * scale), self.least_side), max(round(width * scale), self.least_side)
        if self.shortest_edge is None:
            return self.tile_size
        longer = int(self.shortest_edge * max(height, width) / min(height, width))
        return (self.shortest_edge, longer) if height <= width else (longer, self.shortest_edge)


def _padded_to_square(image: NDArray[np.uint8], colour: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = colour
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _middle(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """``height`` x ``width`` pixels of the middle; black around an image that is smaller."""
    missing = [max(0, wanted - have) for wanted, have in zip((height, width), image.shape, strict=False)]
    if any(missing):
        image = np.pad(image, [*((more // 2, more - more // 2) for more in missing), (0, 0)])
    top, left = (int((have - wanted) / 2) for wanted, have in zip((height, width), image.shape, strict=False))
    return image[top : top + height, left : left + width]
