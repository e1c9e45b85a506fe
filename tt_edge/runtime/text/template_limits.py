"""What rendering one chat template may cost, and the meter that holds it to that. Torch-free.

Every operation of a template whose cost depends on its operands goes through a ``Meter``: before it, where the result
could be far larger than what goes in, and after it. Values are weighed as if nothing in them were shared, so that a
short template cannot nest a list into itself thirty times and compare it; no value weighs more than ``MAX_VALUE``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError

#: Characters of a template's source; long ones of real models have 30,000.
MAX_SOURCE = 64 << 10
#: Tokens of a template's source, which decide how long Jinja and Python compile it; 30,000 characters have about 8,000.
MAX_TOKENS = 16_000
#: Characters of a rendered prompt, and of any one string on the way.
MAX_OUTPUT = 4 << 20
#: Loop iterations (each as many as its body has outputs, at least one), calls, filters and other metered operations.
MAX_STEPS = 1_000_000
#: Bytes of one value, and of all values that one rendering makes, freed or not.
MAX_VALUE, MAX_MADE = 16 << 20, 64 << 20
#: Bits of an integer, levels of nested values and of lazy filters.
MAX_BITS, MAX_NESTING = 4096, 64
#: Seconds of one rendering, of this thread's processor time: whatever the steps above do not foresee.
MAX_SECONDS = 1.0

_CHECK_CLOCK = 64  # steps
_ITEM = 32  # bytes of a list's item, its reference included
_VIEWS: tuple[type[Any], ...] = (type({}.keys()), type({}.values()), type({}.items()))
_SEQUENCES: tuple[type[Any], ...] = (list, tuple, set, frozenset, *_VIEWS)
_CONTAINERS: tuple[type[Any], ...] = (dict, *_SEQUENCES)


class TemplateLimitError(SecurityError):
    """A template exceeded one of this module's limits, which the message names."""


class Meter:
    """What one rendering has spent."""

    __slots__ = ("_clock_at", "_deadline", "_made", "_steps")

    def __init__(self) -> None:
        self._steps = self._made = 0
        self._clock_at = _CHECK_CLOCK
        self._deadline = time.thread_time() + MAX_SECONDS

    def spend(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps >= self._clock_at:
            self._check()

    def _check(self) -> None:
        if self._steps > MAX_STEPS:
            exceeded(f"takes more than {MAX_STEPS:,} steps")
        if time.thread_time() > self._deadline:
            exceeded(f"takes more than {MAX_SECONDS:g} s")
        self._clock_at = self._steps + _CHECK_CLOCK

    def use(self, *values: Any) -> None:
        """Spend what an operation costs that reads all of ``values`` once."""
        for value in values:
            self.spend(1 + (self.weigh(value) >> 8))

    def text(self, value: str) -> str:
        """``value``, a string that an operation has made, if it is short enough; the quickest of the checks."""
        if len(value) > MAX_OUTPUT:
            self.allow(len(value))
        size = sys.getsizeof(value)
        self._made += size
        if self._made > MAX_MADE:
            exceeded(f"makes more than {MAX_MADE >> 20} MiB of values")
        self._steps += 1 + (size >> 10)
        if self._steps >= self._clock_at:
            self._check()
        return value

    def made(self, value: Any) -> Any:
        """``value``, which an operation has made, if it is small enough."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, _CONTAINERS):
            self.spend(1 + (self.weigh(value) >> 8))
            self._made += sys.getsizeof(value) + 2 * _ITEM * len(value)
            if self._made > MAX_MADE:
                exceeded(f"makes more than {MAX_MADE >> 20} MiB of values")
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            exceeded(f"makes an integer of more than {MAX_BITS:,} bits")
        return value

    def allow(self, length: int) -> None:
        """Refuse a string of ``length`` characters, or a list of as many bytes, before it is made."""
        if length > MAX_OUTPUT:
            exceeded(f"makes a value of more than {MAX_OUTPUT >> 20} MiB")

    def weigh(self, value: Any) -> int:
        """Bytes of ``value``, about, with everything in it counted as often as it is there."""
        if isinstance(value, str):
            return len(value) + _ITEM
        if not isinstance(value, _CONTAINERS):
            return _ITEM
        total, level = _ITEM, [value]
        for _ in range(MAX_NESTING):
            inner: list[Any] = []
            for item in level:
                if isinstance(item, str):
                    total += len(item)
                elif isinstance(item, dict):
                    total += 3 * _ITEM * len(item)
                    inner.extend(item)
                    inner.extend(item.values())
                elif isinstance(item, _SEQUENCES):
                    total += _ITEM * len(item)
                    inner.extend(item)
                else:
                    continue
                if total > MAX_VALUE:
                    exceeded(f"makes a value of more than {MAX_VALUE >> 20} MiB")
            if not inner:
                return total
            self.spend(len(inner) >> 4)
            level = inner
        exceeded(f"nests values deeper than {MAX_NESTING} levels")
        return None


class Lazy:
    """The result of a lazy filter; every item is a step. A template sees an iterator and nothing else."""

    __slots__ = ("_depth", "_items", "_meter")

    def __init__(self, meter: Meter, items: Iterable[Any], *sources: Any) -> None:
        self._meter, self._items = meter, iter(items)
        self._depth: int = 1 + max((s._depth for s in (items, *sources) if isinstance(s, Lazy)), default=0)
        if self._depth > MAX_NESTING:
            exceeded(f"nests filters deeper than {MAX_NESTING} levels")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._meter.spend()
        return next(self._items)


#: The meter of the rendering that this thread or task is in.
METER: ContextVar[Meter] = ContextVar("meter")


def exceeded(what: str) -> NoReturn:
    """Refuse the template, which ``what``."""
    raise TemplateLimitError(f"the chat template {what}, which is not allowed")
