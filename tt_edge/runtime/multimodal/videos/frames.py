"""The frames of a video, decoded, with their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Frames:
    """``pixels`` uint8 ``[H, W, 3]`` of each frame, all of one size, ``fps`` of them a second.

    ``shown`` are their seconds, where they are not evenly spaced from 0. ``duration`` is that of their file, in seconds, and
    ``asked`` the frames a second that were asked for of it, if any were.
    Raises ``InvalidInputError`` for no frames, or frames of several sizes.
    """

    pixels: Sequence[NDArray[np.uint8]]
    fps: float
    shown: Sequence[float] | None = None
    duration: float | None = None
    asked: float | None = None

    def __post_init__(self) -> None:
        if not self.pixels:
            raise InvalidInputError("a video of 0 frames is none; give its frames")
        if len(sizes := {frame.shape for frame in self.pixels}) > 1:
            raise InvalidInputError(
                f"a video has frames of sizes {sorted(s[:2] for s in sizes)}; give frames of one size"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width, _ = self.pixels[0].shape
        return height, width

    @property
    def times(self) -> tuple[float, ...]:
        """The second at which each is shown."""
        if self.shown is None:
            return tuple(place / self.fps for place in range(len(self.pixels)))
        return tuple(self.shown)
