"""Preparing a page for models that read it: as Donut's, Nougat's, TrOCR's and BLIP's image processors do. NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.load import ImageFile, pixels_of
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import normalize, resize
from tt_edge.runtime.multimodal.images.settings import height_and_width, mean_and_std, resampling

#: Of Donut's processor and ViT's, which TrOCR has; and of Nougat's.
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Nougat: what is darker than this, of 255 after stretching, is no margin.
_GREY = 200
_BICUBIC, _BILINEAR = 3, 2


@dataclass(frozen=True)
class PageProcessor:
    """Settings of a checkpoint's ``preprocessor_config.json``. ``size`` is ``(height, width)``.

    In this order: ``crop_margin`` cuts the light margin off; ``turn`` turns a page whose long side is not that of ``size``;
    the short side becomes that of ``size``; a page that is larger shrinks, with the filter ``shrink``; and it is centred on black.
    With ``stretch``, it only becomes ``size``, whatever its proportions.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int
    shrink: int
    crop_margin: bool = False
    turn: bool = False
    stretch: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> PageProcessor:
        """Raises ``UnsupportedModelError`` for another processor, ``BundleError`` for settings that are wrong or not supported."""
        kind = str(settings.get("image_processor_type", settings.get("feature_extractor_type")))
        is_nougat = kind.startswith("Nougat")
        is_photo = kind.startswith("Blip")
        is_line = is_photo or kind.startswith(("ViT", "DeiT"))  # of text, as TrOCR reads them
        if not (is_nougat or is_line or kind.startswith("Donut")):
            raise UnsupportedModelError(
                f"pages for an image processor of type {kind} are not prepared here; there are Donut's, Nougat's, ViT's, DeiT's "
                "and BLIP's; give the processor's pixels to SourcePipeline.source in a program"
            )
        needed = ("do_resize", "do_rescale", "do_normalize")
        for name in needed if is_line else (*needed, "do_thumbnail", "do_pad"):
            if not settings.get(name, True):
                raise BundleError(f"preprocessor_config.json has {name} off, which is not supported")
        if settings.get("do_center_crop", kind.startswith("DeiT")):
            raise BundleError("preprocessor_config.json has do_center_crop on, which is not supported")
        if is_nougat and settings.get("do_align_long_axis"):  # transformers turns the colours, not the page
            raise BundleError(
                "preprocessor_config.json has do_align_long_axis on, which Nougat's processor does not support"
            )
        try:
            colours = _IMAGENET if is_nougat else (MEAN, STD) if is_photo else (_HALF, _HALF)
            mean, std = mean_and_std({"image_mean": colours[0], "image_std": colours[1], **settings})
            filter_ = resampling({"resample": _BICUBIC if is_photo else _BILINEAR, **settings})
            return cls(
                size=height_and_width(settings["size"]),
                mean=mean,
                std=std,
                resample=filter_,
                shrink=_BICUBIC if is_nougat else filter_,
                crop_margin=is_nougat and bool(settings.get("do_crop_margin", True)),
                turn=bool(settings.get("do_align_long_axis", False)) and not is_line,
                stretch=is_line,
            )
        except (TypeError, ValueError, KeyError) as error:
            raise BundleError(f"preprocessor_config.json is malformed ({error}); compile the model again") from error

    def prepare(self, image: ImageFile) -> NDArray[np.float32]:
        """A file as ``[3, height, width]``. Raises ``InvalidInputError`` for what is no image, and as ``pixels`` does."""
        return self.pixels(pixels_of(image))

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """An image ``[H, W, 3]`` as ``[3, height, width]``. Raises ``InvalidInputError`` for one that is much longer than wide."""
        if self.stretch:
            return normalize(resize(image, *self.size, self.resample), self.mean, self.std)
        if self.crop_margin:
            image = _without_margin(image)
        (height, width), (rows, columns) = self.size, image.shape[:2]
        if self.turn and ((width < height and columns > rows) or (width > height and columns < rows)):
            image = np.ascontiguousarray(np.rot90(image, 3))
            rows, columns = columns, rows
        edge = min(height, width)
        longer = int(edge * max(rows, columns) / min(rows, columns))
        rows, columns = (edge, longer) if rows <= columns else (longer, edge)
        image = resize(image, rows, columns, self.resample)
        smaller = min(rows, height), min(columns, width)
        if smaller != (rows, columns):
            if rows > columns:
                smaller = smaller[0], int(columns * smaller[0] / rows)
            elif columns > rows:
                smaller = int(rows * smaller[1] / columns), smaller[1]
            image = resize(image, *smaller, self.shrink)
        page = np.zeros((height, width, 3), np.uint8)
        top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
        page[top : top + image.shape[0], left : left + image.shape[1]] = image
        return normalize(page, self.mean, self.std)


def _without_margin(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The smallest rectangle with everything that is darker than light grey."""
    grey = (image.astype(np.float32) @ np.array([0.2989, 0.587, 0.114], np.float32)).astype(np.uint8)
    least, most = int(grey.min()), int(grey.max())
    if least == most:
        return image
    dark = (grey.astype(np.float32) - least) / np.float32(most - least) * 255 < _GREY
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
