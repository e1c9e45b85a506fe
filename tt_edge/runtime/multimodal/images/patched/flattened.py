"""Kosmos-2.5: as many patches of a page as fit, in its proportions, normalised by the page's own mean and deviation."""

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
from tt_edge.runtime.multimodal.images.resize import check_resize, resize_floats
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, height_and_width, integer

_MOST_PATCHES = 1 << 16
Size = tuple[int, int]


@dataclass(frozen=True)
class FlattenedProcessor:
    """As ``Kosmos2_5ImageProcessor``: an image has ``tokens``, and up to ``most`` patches of ``patch`` (height, width) pixels."""

    placeholders: Placeholders
    tokens: int
    most: int
    patch: Size

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give other patches than the network takes."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            patch = height_and_width(image["patch_size"], "patch_size")
            most = integer(image["max_patches"], "max_patches", _MOST_PATCHES)
        if (most, 3 * math.prod(patch)) != (geometry.flattened_patches, geometry.patch_dim):
            raise BundleError(
                f"the image processor makes up to {most} patches of {patch} pixels, and the vision network takes "
                f"{geometry.flattened_patches} of {geometry.patch_dim} numbers; correct preprocessor_config.json and compile again"
            )
        return cls(settings.placeholders, geometry.tokens_a_unit, most, patch)

    @property
    def most_tiles(self) -> int:
        """One: the image."""
        return 1

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """As many for every image. Raises ``InvalidInputError`` for one that is too elongated."""
        self._grid(size, options)
        return self.tokens

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        (rows, columns), (height, width) = self._grid((image.shape[0], image.shape[1]), options), self.patch
        deviation = max(float(image.std(ddof=1)), image.size**-0.5)
        found = (image.astype(np.float32) - np.float32(image.mean())) / np.float32(deviation)
        resized = resize_floats(found, rows * height, columns * width)
        apart = resized.reshape(rows, height, columns, width, 3).swapaxes(1, 2).reshape(rows * columns, -1)
        pixels = np.zeros((1, self.most, apart.shape[1]), np.float32)
        pixels[0, : len(apart)] = apart
        every = np.arange(self.tokens)
        return ProcessedImage(pixels, None, self.tokens, rows=every, edges=np.array([[rows, columns]], np.int64))

    def _grid(self, size: Size, options: ImageOptions) -> Size:
        """Rows and columns of patches."""
        refuse_pixel_settings(options)
        (height, width), (patch_height, patch_width), most = size, self.patch, self.most
        scale = math.sqrt(most * (patch_height / height) * (patch_width / width))
        rows = max(min(math.floor(scale * height / patch_height), most), 1)
        columns = max(min(math.floor(scale * width / patch_width), most), 1)
        if (
            max(rows, columns) >= most or rows * columns > most
        ):  # the model has no place for the last, and no more of them
            raise InvalidInputError(f"an image of {width} x {height} pixels is too elongated for this model; crop it")
        check_resize(size, (rows * patch_height, columns * patch_width))
        return rows, columns
