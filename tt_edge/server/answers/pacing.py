"""Even streams: a piece that comes early is held for a moment, so that a gap behind it is shorter."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    """As ``asyncio.TimerHandle``."""

    def cancel(self) -> None: ...


class Loop(Protocol):
    """What a pacer needs of an event loop."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer: ...


#: Most pieces that are held. What is held is sent at once when another comes, or when the answer is complete.
HELD = 3
#: Time between two pieces while some are held, by the median of their last ``_WINDOW`` intervals.
_STRETCH, _WINDOW = 1.5, 16
#: Most seconds between two pieces while some are held: a slower model's are passed on as they come.
_LONGEST_S = 0.1


class Pacer(Generic[T]):
    """Passes pieces on to ``send``: the first at once, and the others evenly. ``loop`` is by default the one that runs now.

    A prompt that is computed between two decode steps delays a token by more than a step. With up to ``HELD`` pieces held, the
    client waits 1.5 usual intervals a few times, and not 3 once. A complete answer is never later.
    """

    def __init__(self, send: Callable[[T], None], loop: Loop | None = None) -> None:
        self._send, self._loop = send, loop or asyncio.get_running_loop()
        self._held: deque[T] = deque()
        self._intervals: deque[float] = deque(maxlen=_WINDOW)
        self._came: float | None = None
        self._due = 0.0
        self._timer: Timer | None = None

    def add(self, piece: T) -> None:
        """Take the next piece."""
        now = self._loop.time()
        if self._came is not None:
            self._intervals.append(now - self._came)
        self._came = now
        self._held.append(piece)
        while len(self._held) > HELD:
            self._pass_on()
        self._go_on()

    def flush(self) -> None:
        """Pass on all that is held."""
        while self._held:
            self._pass_on()
        self.close()

    def close(self) -> None:
        """Forget what is held."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _go_on(self) -> None:
        """Pass on what is due, and come back when the next is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held and self._due <= self._loop.time():
            self._pass_on()
        if self._held:
            self._timer = self._loop.call_at(self._due, self._go_on)

    def _pass_on(self) -> None:
        self._send(self._held.popleft())
        usual = median(self._intervals) if self._intervals else 0.0
        self._due = self._loop.time() + min(_STRETCH * usual, _LONGEST_S)
