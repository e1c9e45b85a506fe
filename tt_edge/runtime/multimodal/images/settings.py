"""What a checkpoint says about its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tt_edge.contract import VisionGeometry
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.placeholders import Placeholders


@dataclass(frozen=True)
class CheckpointSettings:
    """Settings of a checkpoint, as its files have them, and the sizes of its compiled vision network.

    ``image`` and ``video`` are those of the image and the video processor, ``model`` is ``config.json``.
    """

    image: Mapping[str, Any]
    model: Mapping[str, Any]
    geometry: VisionGeometry
    placeholders: Placeholders
    video: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return str(self.model.get("model_type"))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """``BundleError`` for settings that are not what they should be."""
        try:
            yield
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BundleError(
                f"the image processor's settings are malformed ({type(error).__name__}: {error}); compile the model again"
            ) from error


def numbers(values: Any) -> tuple[float, ...]:
    """Three numbers, for red, green and blue."""
    found = tuple(float(value) for value in values)
    if len(found) != 3:
        raise ValueError(f"{values!r} are not three numbers")
    return found


def height_and_width(size: Any) -> tuple[int, int]:
    """Of a size: one number for a square, or a mapping with both. Raises ``ValueError`` for another."""
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])
