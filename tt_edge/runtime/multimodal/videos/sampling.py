"""Which frames of a video file are taken: the rules of transformers' video processors, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError

#: Frames a second where neither the request nor the checkpoint says: what the Qwen-VL models are trained at (qwen-vl-utils).
RATE = 2.0


class Sampling(Protocol):
    """A rule for the frames of a file."""

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """Frames of a file that has ``total``, ``rate`` of them a second; ``fps`` or ``count`` are those asked for.

        Raises ``InvalidInputError`` for a file that has too few, and for what the rule cannot be asked.
        """


def too_few(total: int, wanted: int) -> InvalidInputError:
    """The error for a file of ``total`` frames, of which ``wanted`` are to be taken."""
    return InvalidInputError(
        f"the video has {total} frames, and {wanted} are to be taken; give a longer one, or fewer frames"
    )


def positive(settings: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    """The setting, or ``default`` where it is none. Raises ``ValueError`` unless it is a number of frames or seconds."""
    value = settings.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r:.80} of videos, and must be 1 or more")
    return value


def rate_of(settings: Mapping[str, Any], default: float | None = None) -> float | None:
    """``fps``, or ``default`` where it is none. Raises ``ValueError`` unless it is a rate."""
    fps = settings.get("fps")
    if fps is not None and (not isinstance(fps, int | float) or not 0 < fps < math.inf):
        raise ValueError(f"fps is {fps!r:.80} of videos, and must be above 0")
    return default if fps is None else float(fps)


@dataclass(frozen=True)
class FrameSampling:
    """``fps`` frames of each second, or ``count`` of the whole file; from ``least`` to ``most``, whole patches of ``depth`` frames.

    ``ends`` takes the first and the last frame and spreads the others between (``Qwen3VLVideoProcessor.sample_frames``);
    without it, the file is cut into equal parts, of which the first frames are taken (``Qwen2VLVideoProcessor``).
    """

    fps: float | None = RATE
    count: int | None = None
    least: int = 4
    most: int = 768
    depth: int = 2
    ends: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], depth: int, *, ends: bool) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        count, fps = positive(settings, "num_frames"), rate_of(settings, RATE)
        least, most = positive(settings, "min_frames", cls.least), positive(settings, "max_frames", cls.most)
        return cls(None if count is not None else fps, count, least or 1, most or 1, depth, ends)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``."""
        if fps is None and count is None:
            fps, count = self.fps, self.count
        number = self._spread(total, rate, fps, count) if self.ends else self._parts(total, rate, fps, count)
        if number < 1 or (number > total and not self.ends):
            raise too_few(total, max(number, self.depth))
        if self.ends:
            spread: list[int] = np.linspace(0, total - 1, number).round().astype(int).tolist()
            return spread
        return in_parts(total, number)

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


@dataclass(frozen=True)
class MostSampling:
    """``fps`` frames of each second, at most ``count``, whole patches of ``depth`` frames, spread from the first frame to the last
    (``MuseGlimmerVideoProcessor``).
    """

    fps: float = RATE
    count: int = 96
    depth: int = 2

    @classmethod
    def of(cls, settings: Mapping[str, Any], depth: int) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        return cls(rate_of(settings, RATE) or RATE, positive(settings, "num_frames", cls.count) or cls.count, depth)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``; both numbers hold, the checkpoint's where one is not asked for."""
        fps, most = self.fps if fps is None else fps, self.count if count is None else count
        number = min(int(total * fps / rate), most, total)
        number = min(max(self.depth, number // self.depth * self.depth), total)
        return spread(total, number)


@dataclass(frozen=True)
class UniformSampling:
    """``count`` frames of any file, from the first to the last; of a shorter one some twice (VILA)."""

    count: int = 8

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        return cls(positive(settings, "num_frames", cls.count) or cls.count)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``."""
        if fps is not None:
            raise InvalidInputError(f"fps is {fps:g}, and this model takes a number of frames; give num_frames")
        found: list[int] = (
            np.linspace(0, total - 1, self.count if count is None else count).round().astype(int).tolist()
        )
        return found


def spread(total: int, number: int) -> list[int]:
    """``number`` places from 0 to ``total - 1``, cut off, as torch.linspace has them: in float32, from both ends to the middle.

    Where the two meet depends on the processor's vectors there, so of one file in thousands a frame may be the next one.
    """
    if number == 1:
        return [0]
    step, last = np.float32(np.float32(total - 1) / np.float32(number - 1)), np.float32(total - 1)
    places = np.arange(number, dtype=np.float32)
    forth, back = step * places, last - step * places[::-1]
    cut: list[int] = np.where(np.arange(number) < number // 2, forth, back).astype(int).tolist()
    return cut


def in_parts(total: int, number: int, shift: float = 0.0) -> list[int]:
    """``shift`` and every ``total / number`` frames behind, below ``total``.

    As torch.arange has it, whose float32 values are cut off: how it rounds differs between processors, so of very long files a
    frame may be the next one. Its one index too many, beyond the end, is not taken.
    """
    step = total / number
    steps = number if not shift else math.ceil((total - shift) / step)
    cut: list[int] = (shift + np.arange(steps) * step).astype(np.float32).astype(int).tolist()
    return cut


@dataclass(frozen=True)
class EvenSampling:
    """``count`` frames of the whole file, or else ``fps`` of each second: the first of as many equal parts
    (``BaseVideoProcessor.sample_frames``).

    With a ``shift``, frames are taken so far behind the beginning; ``True`` is the middle of a part (``InternVLVideoProcessor``).
    """

    fps: float = RATE
    count: int | None = None
    shift: bool | float | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        shift = settings.get("initial_shift")
        if shift is not None and not (isinstance(shift, int | float) and 0 <= shift < math.inf):
            raise ValueError(f"initial_shift is {shift!r:.80} of videos, and must be true, or 0 or more frames")
        return cls(rate_of(settings, RATE) or RATE, positive(settings, "num_frames"), shift)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``."""
        if fps is None and count is None:
            count = self.count
        number = int(total / rate * (fps or self.fps)) if count is None else count
        if self.shift is None:
            number = max(number, 1)
        if not 0 < number <= total:
            raise too_few(total, max(number, 1))
        if self.shift is None:
            return [place * total // number for place in range(number)]
        shift = total / number / 2 if self.shift is True else float(self.shift)
        if shift >= total:
            raise too_few(total, int(shift) + 1)
        return in_parts(total, number, shift)


@dataclass(frozen=True)
class WithinSampling:
    """``fps`` frames of each second, at most ``count``, spread between the first frame and the last; of a long video without a
    second at each end (``SmolVLMVideoProcessor``).
    """

    fps: float = RATE
    count: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        return cls(rate_of(settings, RATE) or RATE, positive(settings, "num_frames"))

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``; both numbers hold, the checkpoint's where one is not asked for."""
        fps, most = self.fps if fps is None else fps, self.count if count is None else count
        duration, limit = total / rate, math.inf if most is None else most
        number = max(1, int(min(round(fps * duration), limit)))
        first, last = 0, total - 1
        if duration - 2 > limit * fps:
            first, last = int(rate), min(int(total - rate), total - 1)
        if first >= last:
            first, last = 0, total - 1
        found: list[int] = np.unique(np.linspace(first, last, number, dtype=int)).tolist()
        return found
