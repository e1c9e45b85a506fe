"""What the doctor says: one finding a line, and how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: ``ok``: as it should be; ``note``: a fact that may matter; ``warning``: slower or riskier than need be; ``wrong``: it does
#: not work, or not with right results. Only ``wrong`` makes the exit status 1.
Level = Literal["ok", "note", "warning", "wrong"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "wrong")


@dataclass(frozen=True)
class Finding:
    """One thing that was found. ``remedy`` is the next step, ``source`` where a known fault is described in public."""

    level: Level
    topic: str
    text: str
    remedy: str = ""
    source: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.text, self.remedy))) + (f" ({self.source})" if self.source else "")


def size(count: int) -> str:
    """Bytes in GiB or MiB, for people."""
    return f"{count / (1 << 30):,.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):,.0f} MiB"
