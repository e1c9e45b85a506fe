"""What a prompt says around the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

#: Numbers in words, as num2words writes them.
_ONES = (
    *(
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
    ),
    *("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """``number``, below a million, in English words: "one thousand, two hundred and five"."""
    if number < len(_ONES):
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    high, low = divmod(number, unit)
    joined = " and " if low < 100 else ", "
    return f"{in_words(high)} {name}" + (joined + in_words(low) if low else "")


def moment(seconds: float) -> dict[str, str]:
    """The names that a text may have for a time, and what they stand for."""
    minutes, rest = divmod(int(seconds), 60)
    return {"seconds": f"{seconds:.1f}", "second": str(int(seconds)), "clock": f"{minutes:02d}:{rest:02d}"}


@dataclass(frozen=True)
class FrameText:
    """What stands before the tokens of a video's first frame, between those of two, and behind those of the last.

    Names in braces: ``{number}`` is that of the frame that follows, counted from 1; ``{seconds}`` (12.5), ``{second}`` (12) and
    ``{clock}`` (00:12) say when it is shown, and with ``past_`` before, when the frame before is; ``{count}`` is the number of
    frames in words, and ``{duration}`` (0:01:05) that of the video. ``token`` stands for a row of features; empty where that is the
    video's own.
    """

    start: str = ""
    between: str = ""
    end: str = ""
    token: str = ""

    @property
    def has_times(self) -> bool:
        """Whether the text says when frames are shown, or how long the video is."""
        return any(
            name in self.start + self.between + self.end for name in ("{second", "{clock}", "{duration}", "{past_")
        )

    def written(self, tokens: Sequence[int], token: str, times: Sequence[float], duration: float | None) -> str:
        """The text of a video whose frames have so many ``tokens``; ``times`` are their seconds, none where none are written."""
        count, parts = len(tokens), []
        whole = {"count": in_words(count)}
        if times:
            whole["duration"] = str(timedelta(seconds=int(times[-1] if duration is None else duration)))
        for place, each in enumerate(tokens):
            known = whole | {"number": str(place + 1)} | (moment(times[place]) if times else {})
            known |= _past(times, place)
            parts += [_filled(self.between if place else self.start, known), (self.token or token) * each]
        return "".join([*parts, _filled(self.end, whole | _past(times, count))])


def _past(times: Sequence[float], place: int) -> dict[str, str]:
    return {f"past_{name}": text for name, text in moment(times[place - 1]).items()} if times and place else {}


def _filled(text: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(f"{{{name}}}", value)
    return text
