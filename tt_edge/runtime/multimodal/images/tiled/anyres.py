"""LLaVA-NeXT and LLaVA-OneVision: the whole image small, then tiles of it at the best of some resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

#: Of an image, at most, and of ``image_grid_pinpoints``.
_MOST_TILES, _MOST_RESOLUTIONS = 64, 256
Size = tuple[int, int]


@dataclass(frozen=True)
class AnyResProcessor:
    """As ``LlavaNextImageProcessor`` and ``LlavaOnevisionImageProcessor``.

    ``resolutions`` are ``(height, width)`` in pixels, multiples of a tile's. A tile has ``side`` squared rows of features, and
    one more, the same for all: what the model puts at the end of each line of tokens. The lines of all tiles together are cut to
    the image's proportions. Lines of more features than ``kept_tiles`` tiles have are interpolated to as many. ``rows_a_tile`` is
    how many rows the network makes of a tile, where there are more than these.
    """

    placeholders: Placeholders
    side: int
    tile_size: Size
    resolutions: tuple[Size, ...]
    kept_tiles: int | None = None
    rows_a_tile: int = 0
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = 3

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or give another size than the network takes."""
        image, geometry = settings.image, settings.geometry
        with settings.reading():
            size = image["size"]
            whole = height_and_width(size.get("shortest_edge", size) if isinstance(size, dict) else size)
            tile = height_and_width(image["crop_size"], "crop_size") if image.get("crop_size") else whole
            if image.get("do_center_crop") and not image.get("crop_size"):
                raise ValueError("do_center_crop is on without a crop_size")
            if whole != tile:
                raise ValueError(f"size is {whole} and crop_size {tile}: the whole image would be cropped")
            given = image.get("image_grid_pinpoints", settings.model.get("image_grid_pinpoints")) or []
            if not 0 < len(given) <= _MOST_RESOLUTIONS:
                raise ValueError(f"image_grid_pinpoints has {len(given)} resolutions, not 1 to {_MOST_RESOLUTIONS}")
            resolutions = tuple((integer(pair[0], "a height"), integer(pair[1], "a width")) for pair in given)
            for height, width in resolutions:
                if height % tile[0] or width % tile[1] or height * width > _MOST_TILES * tile[0] * tile[1]:
                    raise ValueError(f"resolution {height} x {width} is not 1 to {_MOST_TILES} tiles of {tile}")
            mean, std = mean_and_std(image)
            kept = str(settings.model.get("vision_aspect_ratio", ""))
            most = integer(int(kept.removeprefix("anyres_max_")), kept) if kept.startswith("anyres_max_") else None
            side = math.isqrt(geometry.tokens_a_tile - 1)
            each, resample = geometry.tokens_a_unit, resampling(image)
            found = cls(settings.placeholders, side, tile, resolutions, most, each, mean, std, resample)
        if found.tile_size != geometry.tile_size or side * side != geometry.tokens_a_tile - 1:
            raise BundleError(
                f"the image processor makes tiles of {found.tile_size}, and the vision network takes {geometry.tile_size} and "
                f"makes {geometry.tokens_a_tile - 1} features of one; correct preprocessor_config.json and compile again"
            )
        return found

    @property
    def most_tiles(self) -> int:
        """Of the largest resolution, and the whole image."""
        most = max(map(_area, self.resolutions)) // _area(self.tile_size)
        return 1 + (most if self.kept_tiles is None else min(most, self.kept_tiles))

    def tokens_of(self, size: Size, options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where no resolution has fewer.

        Raises ``InvalidInputError`` for an image that is too elongated.
        """
        return self._count(size, self._resolution(size, options, max_tokens))

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``. Raises as ``tokens_of`` does."""
        size, (tile_height, tile_width) = (image.shape[0], image.shape[1]), self.tile_size
        height, width = self._resolution(size, options, max_tokens)
        inner = _within(size, (height, width))
        check_resize(size, inner)
        check_resize(size, self.tile_size)
        whole = np.zeros((height, width, 3), np.uint8)
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        whole[top : top + inner[0], left : left + inner[1]] = resize(image, *inner, self.resample)
        apart = whole.reshape(height // tile_height, tile_height, width // tile_width, tile_width, 3).swapaxes(1, 2)
        tiles = [resize(image, tile_height, tile_width, self.resample), *apart.reshape(-1, tile_height, tile_width, 3)]
        pixels = np.stack([normalize(tile, self.mean, self.std) for tile in tiles])
        rows, blend = self._rows(size, (height, width))
        return ProcessedImage(pixels, None, len(rows), rows=rows, size=size, blend=blend)

    def _resolution(self, size: Size, options: ImageOptions, max_tokens: int | None) -> Size:
        refuse_pixel_settings(options)
        choices: Sequence[Size] = self.resolutions
        if options.low_detail:
            choices = [min(choices, key=_area)]
        chosen = _best(size, choices)
        if max_tokens is None or self._count(size, chosen) <= max_tokens:
            return chosen
        few = [each for each in choices if self._count(size, each) <= max_tokens]
        return _best(size, few or [min(choices, key=_area)])

    def _count(self, size: Size, resolution: Size) -> int:
        return len(self._rows(size, resolution)[0])

    def _rows(self, size: Size, resolution: Size) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """The feature row of each token: of the whole image, then line by line of all tiles, each with the line's end.

        Of an image whose lines are interpolated, four rows of each, and their weights.
        """
        side, count = self.side, self.side**2
        rows, columns = resolution[0] // self.tile_size[0], resolution[1] // self.tile_size[1]
        each = 1 + np.arange(rows * columns).reshape(rows, 1, columns, 1)
        inside = np.arange(count).reshape(1, side, 1, side)
        lines = (each * (self.rows_a_tile or count + 1) + inside).reshape(rows * side, columns * side)
        lines = _cut(lines, size)
        ratio = 0.0 if self.kept_tiles is None else math.sqrt(lines.size / (self.kept_tiles * count))
        if ratio <= 1.1:
            ends = np.full((len(lines), 1), count)
            return np.concatenate([np.arange(count), np.concatenate([lines, ends], axis=1).reshape(-1)]), None
        four, weights = _interpolated(lines, int(lines.shape[0] // ratio), int(lines.shape[1] // ratio))
        first = np.array([1, 0, 0, 0], np.float32)
        ends = np.full((len(four), 1, 4), count)
        four = np.concatenate([four, ends], axis=1).reshape(-1, 4)
        weights = np.concatenate([weights, np.broadcast_to(first, ends.shape)], axis=1).reshape(-1, 4)
        whole = np.repeat(np.arange(count)[:, None], 4, axis=1)
        return np.concatenate([whole, four]), np.concatenate([np.tile(first, (count, 1)), weights])


def _interpolated(lines: NDArray[np.int64], rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of each of ``rows`` x ``columns`` points the four of ``lines`` around it ``[rows, columns, 4]``, and their weights.

    As PyTorch's bilinear ``interpolate``, with corners between points.
    """
    (top, bottom, down), (left, right, across) = (
        _between(*sizes) for sizes in zip(lines.shape, (rows, columns), strict=True)
    )
    four = np.stack([lines[np.ix_(y, x)] for y in (top, bottom) for x in (left, right)], axis=-1)
    weights = np.stack([np.outer(y, x) for y in (1 - down, down) for x in (1 - across, across)], axis=-1)
    return four, weights.astype(np.float32)


def _between(have: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each of ``wanted`` points the places before and behind it among ``have``, and how far it is from the first."""
    places = np.maximum((np.arange(wanted) + 0.5) * (have / wanted) - 0.5, 0)
    before = np.minimum(places.astype(np.int64), have - 1)
    return before, np.minimum(before + 1, have - 1), places - before


def _best(size: Size, resolutions: Sequence[Size]) -> Size:
    """The resolution that keeps most of the image's pixels; of equals, that which wastes least."""
    height, width = size

    def kept(resolution: Size) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - _area(resolution)

    return max(resolutions, key=kept)


def _area(size: Size) -> int:
    return size[0] * size[1]


def _within(size: Size, resolution: Size) -> Size:
    """The largest size within ``resolution`` of the image's proportions."""
    by_height, by_width = resolution[0] / size[0], resolution[1] / size[1]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), resolution[0]), resolution[1]
    return resolution[0], min(math.ceil(size[1] * by_height), resolution[1])


def _cut(lines: NDArray[np.int64], size: Size) -> NDArray[np.int64]:
    """``lines`` without those of the padding, above and below or to the left and right of the image."""
    (height, width), (rows, columns) = size, lines.shape
    if width / height > columns / rows:
        missing = (rows - int(round(height * (columns / width), 7))) // 2
        return lines[missing : rows - missing]
    missing = (columns - int(round(width * (rows / height), 7))) // 2
    return lines[:, missing : columns - missing]
