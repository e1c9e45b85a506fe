"""Timing the stages of a compile."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Seconds by stage, in order, and a status line on the terminal while a stage runs."""

    def __init__(self, show: bool) -> None:
        self.seconds: dict[str, float] = {}
        self.show = show and sys.stderr.isatty()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage ``name``; repeated entries add up."""
        if self.show:
            print(f"\r\033[K{name} …", end="", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            if self.show:
                print("\r\033[K", end="", file=sys.stderr, flush=True)


def peak_rss_mb() -> int:
    """The peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
