"""What a conversation may ask of one image: its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tt_edge.errors import InvalidInputError

#: Settings of an image's size by the names of qwen-vl-utils, in pixels.
SIZE_SETTINGS = ("min_pixels", "max_pixels", "resized_height", "resized_width")

#: Pixels of an image that is asked for with OpenAI's ``detail`` ``low``.
LOW_DETAIL_PIXELS = 512 * 512

#: The largest value of a setting: far more than any image has.
_MOST = 1 << 30


@dataclass(frozen=True)
class ImageOptions:
    """The size that is asked for, as qwen-vl-utils and OpenAI name it; ``None`` where nothing is.

    ``low_detail`` is OpenAI's ``detail: low``: at most ``LOW_DETAIL_PIXELS``, or one tile.
    Raises ``InvalidInputError`` for what is no number of pixels, or only one side.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    resized_height: int | None = None
    resized_width: int | None = None
    low_detail: bool = False

    def __post_init__(self) -> None:
        for name in SIZE_SETTINGS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= _MOST):
                raise InvalidInputError(f"{name} of an image is {value!r}; give a number of pixels from 1 to {_MOST}")
        if (self.resized_height is None) != (self.resized_width is None):
            raise InvalidInputError("an image has one of resized_height and resized_width; give both, or none")
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise InvalidInputError(
                f"an image's min_pixels {self.min_pixels} exceeds its max_pixels {self.max_pixels}; lower it"
            )

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> ImageOptions:
        """The options in a part of a message, or in its ``image_url``."""
        detail = part.get("detail")
        if detail not in (None, "auto", "high", "low"):
            raise InvalidInputError(f"detail of an image is {detail!r}; give auto, low or high")
        return cls(**{name: part.get(name) for name in SIZE_SETTINGS}, low_detail=detail == "low")

    @property
    def sets_pixels(self) -> bool:
        """Whether one of qwen-vl-utils' settings is given."""
        return any(getattr(self, name) is not None for name in SIZE_SETTINGS)


def refuse_pixel_settings(options: ImageOptions) -> None:
    """Raise ``InvalidInputError`` where qwen-vl-utils' settings are given to a family whose image sizes are fixed."""
    if options.sets_pixels:
        raise InvalidInputError(
            f"{', '.join(SIZE_SETTINGS)} are settings of the Qwen-VL models; omit them for this model"
        )


#: An image as it is.
AS_IT_IS = ImageOptions()
