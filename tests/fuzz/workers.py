"""Inputs run in processes that may die: under limits of memory and time, and watched from outside."""

from __future__ import annotations

import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tt_edge.errors import MAX_MESSAGE, TTEdgeError

#: Runs one seed. It returns where the input was taken, and raises one of the project's errors where it was refused.
Run = Callable[[int], None]

MAX_SECONDS = 5.0
_BROKEN = 71  # exit status of a worker that cannot start


@dataclass
class Report:
    """What came of a target's inputs. ``faults`` are seeds and what went wrong; ``peak_mib`` is of the largest worker."""

    taken: int = 0
    refused: int = 0
    crashes: int = 0
    hangs: int = 0
    tracebacks: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    peak_mib: int = 0

    @property
    def inputs(self) -> int:
        return self.taken + self.refused + self.crashes + self.hangs + self.tracebacks


class _Shared:
    """Numbers that a worker writes and its parent reads: at most one of them is lost when the worker dies."""

    SEED, TAKEN, REFUSED, TRACEBACKS, PEAK = range(5)
    STARTED, SLOWEST = range(2)

    def __init__(self) -> None:
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.counts = np.frombuffer(memory, np.int64, 5)
        self.times = np.frombuffer(memory, np.float64, 2, 64)


def run_limited(
    make: Callable[[], Run],
    seeds: range,
    *,
    memory: int = 4 << 30,
    until: float = float("inf"),
    others: tuple[type[Exception], ...] = (),
) -> Report:
    """Run ``make()`` once in a worker, and what it returns with each seed there; a worker that dies is replaced.

    A worker has ``memory`` bytes more address space than it starts with, and ``MAX_SECONDS`` for an input. ``others`` are
    errors, beside the project's own, that refuse an input. ``until`` is a time (``time.monotonic``) to stop at.
    """
    report, start, first = Report(), time.monotonic(), seeds.start
    while first < seeds.stop and time.monotonic() < until:
        first = _watch(make, range(first, seeds.stop), memory, until, others, report)
    report.seconds = time.monotonic() - start
    return report


def _watch(
    make: Callable[[], Run],
    seeds: range,
    memory: int,
    until: float,
    others: tuple[type[Exception], ...],
    report: Report,
) -> int:
    """Start a worker and wait for its end, or end it; returns the seed to go on with."""
    shared, (reader, writer) = _Shared(), os.pipe()
    shared.times[_Shared.STARTED] = time.monotonic() + 60  # for making the run
    shared.counts[_Shared.SEED] = seeds.start
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _work(make, seeds, memory, until, others, writer, shared)
    os.close(writer)
    hung = False
    with os.fdopen(reader, "r") as lines:
        while True:
            if select.select([lines], [], [], 0.2)[0]:
                line = lines.readline()
                if not line:
                    break
                seed, _, text = line.rstrip("\n").partition("\t")
                report.faults.append((int(seed), text))
            elif time.monotonic() - shared.times[_Shared.STARTED] > MAX_SECONDS + 1:
                os.kill(pid, signal.SIGKILL)
                hung = True
                break
    _, status = os.waitpid(pid, 0)
    seed = int(shared.counts[_Shared.SEED])
    report.taken += int(shared.counts[_Shared.TAKEN])
    report.refused += int(shared.counts[_Shared.REFUSED])
    report.tracebacks += int(shared.counts[_Shared.TRACEBACKS])
    report.peak_mib = max(report.peak_mib, int(shared.counts[_Shared.PEAK]))
    report.slowest = max(report.slowest, float(shared.times[_Shared.SLOWEST]))
    if hung:
        report.hangs += 1
        report.faults.append((seed, f"took more than {MAX_SECONDS:.0f} s"))
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == _BROKEN:
        raise RuntimeError("the worker could not start; what it printed says why")
    elif status:
        report.crashes += 1
        report.faults.append((seed, f"the process ended with status {status}"))
    else:
        return seeds.stop
    return seed + 1


def _work(
    make: Callable[[], Run],
    seeds: range,
    memory: int,
    until: float,
    others: tuple[type[Exception], ...],
    writer: int,
    shared: _Shared,
) -> None:
    try:
        try:
            run = make()
        except BaseException:
            traceback.print_exc()
            os._exit(_BROKEN)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(writer, "w", buffering=1) as out:
            for seed in seeds:
                start = time.monotonic()
                if start >= until:
                    break
                shared.counts[_Shared.SEED], shared.times[_Shared.STARTED] = seed, start
                fault = _run(run, seed, others, shared)
                took = time.monotonic() - start
                if took > MAX_SECONDS:
                    fault = fault or f"took {took:.1f} s"
                if fault is not None:
                    out.write(f"{seed}\t{' '.join(fault.split())}\n")
                if took > shared.times[_Shared.SLOWEST]:
                    shared.times[_Shared.SLOWEST] = took
                if seed % 64 == 0:
                    shared.counts[_Shared.PEAK] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        shared.counts[_Shared.PEAK] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def _run(run: Run, seed: int, others: tuple[type[Exception], ...], shared: _Shared) -> str | None:
    """What went wrong, if anything."""
    try:
        run(seed)
    except TTEdgeError as error:
        shared.counts[_Shared.REFUSED] += 1
        return _bad_message(str(error))
    except others:
        shared.counts[_Shared.REFUSED] += 1
    except BaseException as error:  # whatever it is, it is a finding
        shared.counts[_Shared.TRACEBACKS] += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {place.filename}:{place.lineno}: {str(error)[:200]!r}"
    else:
        shared.counts[_Shared.TAKEN] += 1
    return None


def _bad_message(message: str) -> str | None:
    """What is wrong with an error's text, if anything: it is one line, not too long, and can be printed."""
    try:
        message.encode()
    except UnicodeEncodeError:
        return f"message cannot be printed: {message[:100]!r}"
    if not 10 < len(message) <= MAX_MESSAGE + 2 or len(message.splitlines()) != 1:
        return f"message is not one line: {message[:200]!r}"
    return None
