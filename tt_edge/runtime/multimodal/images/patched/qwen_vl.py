"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of nearly their own size, in patches."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.options import ImageOptions
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor, PixelBounds, Size

#: Image tokens of an image for which no bounds are given (qwen-vl-utils, ``IMAGE_MIN_TOKEN_NUM``, ``IMAGE_MAX_TOKEN_NUM``).
_UTILS_LEAST_TOKENS, _UTILS_MOST_TOKENS = 4, 16384


@dataclass(frozen=True)
class QwenVLProcessor(GridProcessor):
    """As ``Qwen2VLImageProcessor``: sides to multiples of a token's, pixels between two bounds, or as qwen-vl-utils is asked to."""

    def _asked(self, size: Size, options: ImageOptions) -> Size:
        token = self.side**2
        least, most = _UTILS_LEAST_TOKENS * token, _UTILS_MOST_TOKENS * token
        if options.resized_height is not None and options.resized_width is not None:
            return self.size_of(options.resized_height, options.resized_width, PixelBounds(least, most))
        least = least if options.min_pixels is None else options.min_pixels
        most = most if options.max_pixels is None else options.max_pixels
        if least > most:
            raise InvalidInputError(
                f"an image's min_pixels {least} exceeds its max_pixels {most} (qwen-vl-utils' own where not given); give both"
            )
        return self.size_of(*size, PixelBounds(least, most))
