"""Pixtral, and what is built on it: images scaled down to a longest edge, then to whole tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions, refuse_pixel_settings
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor, Size
from tt_edge.runtime.multimodal.images.processed import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.resize import check_resize
from tt_edge.runtime.multimodal.images.settings import (
    CheckpointSettings,
    height_and_width,
    integer,
    mean_and_std,
    resampling,
)

#: The longest edge of an image that is asked for with OpenAI's ``detail`` ``low``.
_LOW_DETAIL_EDGE = 512


@dataclass(frozen=True)
class PixtralProcessor(GridProcessor):
    """As ``PixtralImageProcessor``. ``longest`` are the most pixels of height and width; a row of tokens is a tile of its own."""

    temporal_patch_size: int = 1
    longest: Size = (1024, 1024)

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed, or whose patches are not the network's tokens."""
        image, geometry = settings.image, settings.geometry
        patch = math.isqrt(geometry.patch_dim // 3)
        with settings.reading():
            side = height_and_width(image["patch_size"], "patch_size")
            if side != (patch * geometry.merge_size,) * 2:
                raise ValueError(
                    f"patch_size is {side}, and the vision network takes tokens of {patch * geometry.merge_size}"
                )
            size = image["size"]
            edge = size.get("longest_edge") if isinstance(size, Mapping) else None
            mean, std = mean_and_std(image)
            return cls(
                placeholders=settings.placeholders,
                patch_size=patch,
                merge_size=geometry.merge_size,
                mean=mean,
                std=std,
                resample=resampling(image),
                longest=height_and_width(size if edge is None else integer(edge, "size.longest_edge")),
            )

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``."""
        found = super().process(image, options, max_tokens)
        assert found.grid is not None
        return replace(found, layout=Layout(found.grid[1] // self.merge_size, 1))

    def sizes(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[Size | None, Size]:
        """The size that an image is made; none is asked for. Raises ``InvalidInputError`` for an image that is too elongated."""
        refuse_pixel_settings(options)
        most = min(*self.longest, _LOW_DETAIL_EDGE) if options.low_detail else max(self.longest)
        final = self._whole(size, most)
        while max_tokens is not None and max(final) > self.side and math.prod(final) > max_tokens * self.side**2:
            most = max(final) - self.side
            final = self._whole(size, most)
        check_resize(size, final)
        return None, final

    def _whole(self, size: Size, most: int) -> Size:
        """``size`` within ``longest`` and ``most``, rounded up to whole tokens."""
        ratio = max(1.0, *(side / min(limit, most) for side, limit in zip(size, self.longest, strict=True)))
        height, width = (math.floor(side / ratio) if ratio > 1 else side for side in size)
        if not height or not width:
            raise InvalidInputError(
                f"an image of {size[1]} x {size[0]} pixels has no pixel in its width at this size; crop it"
            )
        return -(-height // self.side) * self.side, -(-width // self.side) * self.side
