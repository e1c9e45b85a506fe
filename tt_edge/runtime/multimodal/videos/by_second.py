"""The GLM models' rules for the frames of a video file: those that are shown at certain seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.videos.sampling import RATE, positive, rate_of, too_few

#: GLM-4.6V: frames a second of a video up to so many seconds, and of longer ones.
_RATES, _LONG = ((30, 3.0), (300, 1.0)), 0.5
#: GLM-4.6V: frames and seconds that count, at most.
_MOST_FRAMES, _MOST_SECONDS = 640, 2400


def _in_pairs(places: list[int]) -> list[int]:
    """Each place once, and the last twice where they are odd."""
    found = list(dict.fromkeys(places))
    return found + found[-1:] * (len(found) % 2)


@dataclass(frozen=True)
class TickSampling:
    """The frames at each of ``fps`` ticks a second; of a video above ``longest`` seconds, as many spread over it
    (``Glm4vVideoProcessor``).
    """

    fps: float = RATE
    longest: int = 300

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        return cls(rate_of(settings, RATE) or RATE, positive(settings, "max_duration", cls.longest) or cls.longest)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``."""
        if count is not None:
            raise InvalidInputError(f"num_frames is {count}, and this model takes frames by the second; give fps")
        fps = self.fps if fps is None else fps
        last, duration = total - 1, total / rate
        if duration <= self.longest:
            number = max(math.floor(duration * fps), 1)
            return _in_pairs([min(last, math.ceil(place * rate / fps)) for place in range(number)])
        number = int(self.longest * fps)
        if number >= total:
            return _in_pairs(list(range(total)))
        return _in_pairs([min(last, math.ceil(second * rate)) for second in np.linspace(0, duration, number)])


@dataclass(frozen=True)
class PacedSampling:
    """The first frame after each of some seconds, fewer a second of longer videos (``Glm46VVideoProcessor``).

    ``depth`` frames make a patch. With ``fps``, as many a second of any video, at most ``most`` (``GlmgaVideoProcessor``).
    """

    depth: int = 2
    fps: float | None = None
    most: int = _MOST_FRAMES

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, own_rate: bool) -> Self:
        """From a video processor's settings. Raises ``ValueError`` for those that are no numbers."""
        depth = positive(settings, "temporal_patch_size", cls.depth) or cls.depth
        if not own_rate:
            return cls(depth)
        return cls(depth, rate_of(settings, RATE), positive(settings, "max_frames", _MOST_FRAMES) or _MOST_FRAMES)

    def places(self, total: int, rate: float, fps: float | None = None, count: int | None = None) -> list[int]:
        """As ``Sampling``."""
        if count is not None or (fps is not None and self.fps is None):
            name, value = ("fps", fps) if count is None else ("num_frames", count)
            what = "omit it" if self.fps is None else "give fps"
            raise InvalidInputError(f"{name} is {value:g}, and this model takes frames by a rule of its own; {what}")
        duration = total / rate
        if self.fps is None:
            counted = min(duration, _MOST_SECONDS)
            a_second = next((each for longest, each in _RATES if counted <= longest), _LONG) * self.depth
            end = float(int(duration))
        else:
            counted, a_second = duration, self.fps if fps is None else fps
            end = duration - 1 / a_second
        number = min(int(counted * a_second), self.most)
        if number < 1:
            raise too_few(total, 1)
        if total < number and self.fps is not None:
            return _in_pairs([math.floor(place * total / number) for place in range(number)])
        found = list(range(total)) if total < number else _after_each(total, rate, a_second, end)
        if len(found) != number:
            first, last = (0, total - 1) if len(found) > number else (found[0], found[-1])
            found = np.linspace(first, last, number, dtype=int).tolist()
        return _in_pairs(found)


def _after_each(total: int, rate: float, a_second: float, end: float) -> list[int]:
    """The first frame at or after each tick of ``a_second`` a second, until a tick reaches ``end``."""
    found, tick, step, frame = [], 0.0, 1 / a_second, 1 / rate
    for place in range(total):
        if place * frame >= tick:
            tick += step
            found.append(place)
            if tick >= end:
                break
    return found
