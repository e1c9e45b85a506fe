"""Idefics 2: an image in its own proportions on a canvas, and before it, where images are split, its four quarters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import HALF
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, integer, mean_and_std, resampling

#: Tiles of an image that is split: its quarters, and the whole image.
_SPLIT = 5
Size = tuple[int, int]


@dataclass(frozen=True)
class QuartersProcessor:
    """As ``Idefics2ImageProcessor``.

    Every tile is resized until no side is longer than ``longest`` nor shorter than ``shortest`` pixels, and stands at the upper
    left of a square of ``longest`` pixels, of which only whole patches of ``patch`` pixels count (``ProcessedImage.edges``).
    """

    placeholders: Placeholders
    tokens_a_tile: int
    shortest: int
    longest: int
    patch: int
    splits: bool = False
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    resample: int = 2

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        image, geometry = settings.image, settings.geometry
        patches = geometry.padded_tiles
        with settings.reading():
            mean, std = mean_and_std(image)
            if not {"shortest_edge", "longest_edge"} <= image["size"].keys():
                raise ValueError(f"size is {image['size']!r:.80}, without shortest_edge or longest_edge")
            longest = integer(image["size"]["longest_edge"], "size.longest_edge")
            patch = longest // max(1, patches)
            found = cls(
                placeholders=settings.placeholders,
                tokens_a_tile=geometry.tokens_a_unit,
                shortest=integer(image["size"]["shortest_edge"], "size.shortest_edge", longest, least=patch),
                longest=longest,
                patch=patch,
                splits=bool(image["do_image_splitting"]),
                mean=mean,
                std=std,
                resample=resampling(image),
            )
        if (longest, longest) != geometry.tile_size or not patches:
            raise BundleError(
                f"the image processor makes images of up to {longest} x {longest}, and the vision network takes "
                f"{geometry.tile_size}; correct preprocessor_config.json and compile again"
            )
        return found

    @property
    def most_tiles(self) -> int:
        """The quarters of an image, and the whole."""
        return _SPLIT if self.splits else 1

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; not split where those of five tiles are more than ``max_tokens``.

        Raises ``InvalidInputError`` for an image that is too elongated to be resized, or of one line, which has no quarters.
        """
        return self.tokens_a_tile * len(self._parts(size, options, max_tokens))

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        parts = self._parts((image.shape[0], image.shape[1]), options, max_tokens)
        pixels = np.zeros((len(parts), 3, self.longest, self.longest), np.float32)
        edges = np.zeros((len(parts), 2), np.int64)
        for number, (rows, columns) in enumerate(parts):
            part = image[rows, columns]
            height, width = self._resized(part.shape[0], part.shape[1])
            pixels[number, :, :height, :width] = normalize(
                resize(part, height, width, self.resample), self.mean, self.std
            )
            edges[number] = height // self.patch, width // self.patch
        layout = Layout(2, 2, "last") if len(parts) > 1 else Layout(1, 1)
        return ProcessedImage(pixels, None, len(parts) * self.tokens_a_tile, layout=layout, edges=edges)

    def _parts(self, size: Size, options: ImageOptions, max_tokens: int | None) -> list[tuple[slice, slice]]:
        """Rows and columns of each tile: the quarters line by line, then the whole image."""
        refuse_pixel_settings(options)
        height, width = size
        found = [(slice(0, height), slice(0, width))]
        fits = max_tokens is None or _SPLIT * self.tokens_a_tile <= max_tokens
        if self.splits and not options.low_detail and fits:
            if min(size) < 2:
                raise InvalidInputError(f"an image of {width} x {height} pixels has no quarters; give a larger one")
            upper, lower = slice(0, height // 2), slice(height // 2, height)
            left, right = slice(0, width // 2), slice(width // 2, width)
            found = [(upper, left), (upper, right), (lower, left), (lower, right), *found]
        for rows, columns in found:
            part = rows.stop - rows.start, columns.stop - columns.start
            check_resize(part, self._resized(*part))
        return found

    def _resized(self, height: int, width: int) -> Size:
        ratio = width / height
        if width >= height and width > self.longest:
            height, width = int(self.longest / ratio), self.longest
        elif height > width and height > self.longest:
            height, width = self.longest, int(self.longest * ratio)
        return max(height, self.shortest), max(width, self.shortest)
