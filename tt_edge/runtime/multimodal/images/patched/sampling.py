"""Which frames of a video file are taken: the rules of transformers' video processors, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError

#: Frames a second where neither the request nor the checkpoint says: what the Qwen-VL models are trained at (qwen-vl-utils).
_RATE = 2.0


@dataclass(frozen=True)
class FrameSampling:
    """``fps`` frames of each second, or ``count`` of the whole file; from ``least`` to ``most``, whole patches of ``depth`` frames.

    ``ends`` takes the first and the last frame and spreads the others between (``Qwen3VLVideoProcessor.sample_frames``);
    without it, the file is cut into equal parts, of which the first frames are taken (``Qwen2VLVideoProcessor``).
    """

    fps: float | None = _RATE
    count: int | None = None
    least: int = 4
    most: int = 768
    depth: int = 2
    ends: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], depth: int, *, ends: bool) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        numbers = {"min_frames": cls.least, "max_frames": cls.most, "num_frames": None}
        numbers = {name: settings.get(name, default) for name, default in numbers.items()}
        for name, value in numbers.items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} is {value!r:.80} of videos, and must be 1 or more")
        fps, count = settings.get("fps"), numbers["num_frames"]
        if fps is not None and (not isinstance(fps, int | float) or not 0 < fps < math.inf):
            raise ValueError(f"fps is {fps!r:.80} of videos, and must be above 0")
        rate = None if count is not None else _RATE if fps is None else float(fps)
        least, most = (
            numbers[name] or default for name, default in (("min_frames", cls.least), ("max_frames", cls.most))
        )
        return cls(rate, count, least, most, depth, ends)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """Frames of a file that has ``total``, ``rate`` of them a second; ``fps`` or ``count`` are those asked for.

        Raises ``InvalidInputError`` for a file that has too few.
        """
        if fps is None and count is None:
            fps, count = self.fps, self.count
        number = self._spread(total, rate, fps, count) if self.ends else self._parts(total, rate, fps, count)
        if number < 1 or (number > total and not self.ends):
            raise InvalidInputError(
                f"the video has {total} frames, and {max(number, self.depth)} are to be taken; give a longer one, or fewer frames"
            )
        if self.ends:
            spread: list[int] = np.linspace(0, total - 1, number).round().astype(int).tolist()
            return spread
        # As torch.arange has it, whose float32 values are cut off: how it rounds differs between processors, so of very long
        # files a frame may be the next one. Its one index too many, beyond the end, is not taken.
        cut: list[int] = (np.arange(number) * (total / number)).astype(np.float32).astype(int).tolist()
        return cut

    def _parts(self, total: int, rate: float, fps: float | None, count: int | None) -> int:
        if count is not None:
            return round(count / self.depth) * self.depth
        assert fps is not None
        most = math.floor(min(self.most, total) / self.depth) * self.depth
        wanted = min(max(total / rate * fps, self.least), most, total)
        return math.floor(wanted / self.depth) * self.depth

    def _spread(self, total: int, rate: float, fps: float | None, count: int | None) -> int:
        if count is not None:
            return count
        assert fps is not None
        return min(max(int(total / rate * fps), self.least), self.most, total)
