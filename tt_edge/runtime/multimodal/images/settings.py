"""What a checkpoint says about its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tt_edge.contract import VisionGeometry
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.placeholders import Placeholders

#: Longest side, in pixels, of what an image processor makes.
MAX_SIDE = 16384
_FILTERS = (1, 2, 3)


@dataclass(frozen=True)
class CheckpointSettings:
    """Settings of a checkpoint, as its files have them, and the sizes of its compiled vision network.

    ``image`` and ``video`` are those of the image and the video processor, ``model`` is ``config.json``; ``processor`` and
    ``video_processor`` are the classes of the two, the latter ``None`` for a model that takes no videos.
    """

    image: Mapping[str, Any]
    model: Mapping[str, Any]
    geometry: VisionGeometry
    placeholders: Placeholders
    video: Mapping[str, Any] = field(default_factory=dict)
    processor: str = ""
    video_processor: str | None = None

    @property
    def model_type(self) -> str:
        return str(self.model.get("model_type"))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """``BundleError`` for settings that are not what they should be."""
        try:
            yield
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise BundleError(
                f"the image processor's settings are malformed ({type(error).__name__}: {error}); correct "
                "preprocessor_config.json and compile the model again"
            ) from error


def integer(value: Any, name: str, most: int = MAX_SIDE, least: int = 1) -> int:
    """``value``, a setting called ``name``. Raises ``ValueError`` unless it is an integer from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r:.80}, not an integer from {least} to {most}")
    return int(value)


def resampling(settings: Mapping[str, Any], name: str = "resample") -> int:
    """Pillow's number of the filter called ``name``: Lanczos, bilinear or bicubic.

    Raises ``UnsupportedModelError`` for the others: transformers' nearest pixel is rounded otherwise, and it has no box or Hamming.
    """
    found = integer(settings[name], name, 5, least=0)
    if found not in _FILTERS:
        raise UnsupportedModelError(
            f"the image processor's setting {name} is {found}, which tt-edge does not follow (only 1 Lanczos, 2 bilinear or 3 "
            "bicubic); images would be prepared otherwise than in training. Correct preprocessor_config.json and compile again"
        )
    return found


def mean_and_std(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What is subtracted from a pixel of 0 to 1, and what it is divided by, with ``do_normalize`` and ``rescale_factor``."""
    mean = numbers(settings["image_mean"], "image_mean", 0, 1)
    std = numbers(settings["image_std"], "image_std", 0.001, 255)
    if not settings.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1e-6 <= factor <= 1e6:
        raise ValueError(f"rescale_factor is {factor!r:.80}, not a number from 1e-6 to 1e6")
    scale = 255 * factor  # of a pixel of 0 to 1
    if abs(scale - 1) < 1e-6:
        return mean, std
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def numbers(values: Any, name: str, least: float, most: float) -> tuple[float, ...]:
    """Three numbers from ``least`` to ``most``, for red, green and blue. Raises ``ValueError`` for others."""
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(least <= value <= most for value in found):
        raise ValueError(f"{name} is {values!r:.80}, not three numbers from {least} to {most}")
    return found


def height_and_width(size: Any, name: str = "size") -> tuple[int, int]:
    """Of a size: one number for a square, or a mapping with both. Raises ``ValueError`` for another."""
    if not isinstance(size, Mapping):
        return integer(size, name), integer(size, name)
    return integer(size["height"], f"{name}.height"), integer(size["width"], f"{name}.width")
