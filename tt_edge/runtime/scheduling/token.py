"""A chosen token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class Token:
    """One chosen token. ``logprob`` and ``top``, pairs of id and log-probability, are given when they were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
