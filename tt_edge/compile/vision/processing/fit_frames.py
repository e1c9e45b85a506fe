"""From prompts that a processor expanded to the rule by which it writes the frames of a video. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.videos.frame_text import FrameText, moment

#: A number as texts have it: 12, 12.5 or 00:12.
_NUMBER = re.compile(r"(\d+(?:[.:]\d+)*)")
#: The names of a frame's numbers in a text, as ``FrameText`` has them, in the order in which they are tried.
_NAMES = ("number", "clock", "seconds", "second")


@dataclass(frozen=True)
class Filmed:
    """What a processor wrote in the place of ``video``, which is shown at ``times`` (a second for each of its groups)."""

    text: str
    video: ProcessedImage
    times: Sequence[float]


def fit_frames(token: str, word: str, seen: Sequence[Filmed]) -> FrameText | None:
    """The text around frames with which every one of ``seen`` is written; ``None`` where there is none.

    ``token`` stands for a row of features; ``word`` is what a prompt has for a video. Raises ``UnsupportedModelError`` where no
    rule writes them all.
    """
    split = [re.split(f"(?:{re.escape(token)})+", each.text) for each in seen]
    if all(parts == ["", ""] for parts in split):
        return None if token == word else FrameText(token=token)
    starts, ends, between = [], [], []
    for each, parts in zip(seen, split, strict=True):
        count = len(each.video.groups)
        if len(parts) not in (2, count + 1):
            raise UnsupportedModelError(
                f"its processor writes {len(parts) - 1} runs of tokens for a video of {count} frames, which follows no rule"
            )
        inner = parts[1:-1] if len(parts) == count + 1 else [""] * (count - 1)
        starts.append((parts[0], _known(each.times, 0)))
        between += [(text, _known(each.times, place)) for place, text in enumerate(inner, 1)]
        ends.append((parts[-1], _known(each.times, count)))
    found = FrameText(_template(starts), _template(between), _template(ends), "" if token == word else token)
    for each in seen:
        tokens = each.video.groups
        if found.written(tokens, word, each.times, None) != each.text:
            raise UnsupportedModelError(
                f"its processor writes the video {each.text.replace(token, '.')!r:.160}, which follows no rule"
            )
    return found


def _known(times: Sequence[float], place: int) -> dict[str, str]:
    """The numbers that the text before a frame may have, by their names."""
    known = {"number": str(place + 1)} | moment(times[place]) if place < len(times) else {}
    before = moment(times[place - 1]) if place else {}
    return known | {f"past_{name}": before[name] for name in _NAMES if name in before}


def _template(given: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """The text of a place, with the names of numbers in the place of numbers that are those of its frames."""
    split = [_NUMBER.split(text) for text, _ in given]
    if not split or len({tuple(parts[::2]) for parts in split}) > 1:
        return given[0][0] if given else ""  # no rule, which the proof says
    found = list(split[0])
    for at in range(1, len(found), 2):
        for name in (*_NAMES, *(f"past_{each}" for each in _NAMES)):
            if all(known.get(name) == parts[at] for parts, (_, known) in zip(split, given, strict=True)):
                found[at] = f"{{{name}}}"
                break
    return "".join(found)
