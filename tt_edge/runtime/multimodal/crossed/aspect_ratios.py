"""Preprocessing into a canvas of tiles whose arrangement has a number, as Llama 3.2 Vision's processor does it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.resize import check_resize
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.images.tiled.canvas import CanvasProcessor, Size


def arrangements(most: int) -> list[tuple[int, int]]:
    """Every ``(rows, columns)`` of up to ``most`` tiles, in the order in which transformers numbers them, from 1 on."""
    return [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most + 1) if rows * columns <= most]


@dataclass(frozen=True)
class AspectRatioProcessor(CanvasProcessor):
    """As ``MllamaImageProcessor``: the tiles of an image are those of its canvas. Every image has the rows of ``max_tiles``.

    ``tokens_a_tile`` is how many rows of keys and values the tower makes of an image.
    """

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give other tiles than the network takes."""
        named = {"max_patches": settings.image["max_image_tiles"], "resize_to_max_canvas": False}
        found = super().from_settings(replace(settings, image={**settings.image, **named}))
        if found.max_tiles != settings.geometry.tiles:
            raise BundleError(
                f"the image processor makes up to {found.max_tiles} tiles, and the vision network takes "
                f"{settings.geometry.tiles}; correct max_image_tiles in preprocessor_config.json and compile again"
            )
        return found

    @property
    def most_tiles(self) -> int:
        """Images count as a whole."""
        return 1

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """The rows of an image, which are the same for every size. Raises ``InvalidInputError`` as ``process`` does."""
        self._canvas(size, options, max_tokens)
        return self.tokens_a_tile

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises ``InvalidInputError`` for one that is too elongated to be resized."""
        rows, columns = self._canvas((image.shape[0], image.shape[1]), options, max_tokens)
        pixels = np.stack(self._tiles(image, rows, columns))
        every = np.arange(self.tokens_a_tile)
        return ProcessedImage(pixels, None, self.tokens_a_tile, rows=every, layout=Layout(rows, columns))

    def _canvas(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[int, int]:
        """Rows and columns: of the canvases that enlarge an image, or else of all, that which changes its size least."""
        refuse_pixel_settings(options)
        check_resize(size, (self.tile, self.tile))
        every = arrangements(1 if options.low_detail else self.max_tiles)
        scales = (np.array(every) * self.tile / np.array(size)).min(axis=1)
        chosen = scales[scales >= 1].min() if (scales >= 1).any() else scales.max()
        return min((pair for pair, scale in zip(every, scales, strict=True) if scale == chosen), key=math.prod)
