"""The long run: inputs over all readers, images and requests, each target in workers with limits of memory and time.

    python -m tests.fuzz.long_run                               500,000 inputs, others every time
    python -m tests.fuzz.long_run --inputs 20000 --seed 7       20,000, the same ones every time
    python -m tests.fuzz.long_run --target manifest --seed 123 --inputs 1        one input again

Ends with status 1 where a process died, an input took more than 5 s, an error was none of the project's or not of one
line, or something outside a bundle was changed. What was found is printed with the seed that led to it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.fuzz.workers import Report, Run, run_limited


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500_000, help="in all (default 500,000)")
    parser.add_argument("--seed", type=int, default=None, help="of the first input (default: of the clock)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--memory-mib", type=int, default=4096, help="of a worker, beside what it starts with")
    args = parser.parse_args()
    first = int(time.time()) * 1_000_000 if args.seed is None else args.seed
    chosen = {args.target: TARGETS[args.target]} if args.target else TARGETS
    reports = run(chosen, args.inputs, first, args.seconds, args.memory_mib << 20)
    print(f"first seed {first}")
    print(table(reports))
    return 1 if any(report.faults for report in reports.values()) else 0


Targets = Mapping[str, tuple[Callable[[Path], Run], int]]


def run(chosen: Targets, inputs: int, first: int, seconds: float, memory: int) -> dict[str, Report]:
    """A report for each target, of its share of ``inputs``; those of one that is short of time end early."""
    shares, reports = sum(share for _, share in chosen.values()), {}
    end, here = time.monotonic() + seconds, os.getcwd()
    left = shares
    for name, (make, share) in chosen.items():
        count = -(-inputs * share // shares)
        until = time.monotonic() + (end - time.monotonic()) * share / left if seconds != float("inf") else seconds
        left -= share
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as empty:
            os.chdir(empty)  # what a relative name would reach
            made = partial(_make, make, Path(folder))
            reports[name] = run_limited(made, range(first, first + count), memory=memory, until=until)
            if found := os.listdir(empty):
                reports[name].faults.append((first, f"wrote files where it ran: {found}"))
            os.chdir(here)
        print(table({name: reports[name]}), flush=True)
        for seed, fault in reports[name].faults[:20]:
            print(f"    seed {seed}: {fault}", flush=True)
    return reports


def _make(make: Callable[[Path], Run], scratch: Path) -> Run:
    """With a folder of its own for each worker."""
    return make(Path(tempfile.mkdtemp(dir=scratch)))


def table(reports: dict[str, Report]) -> str:
    """One line a target, and the sum."""
    head = "target                        inputs    taken  refused  crashes  hangs  tracebacks  slowest s  peak MiB  a second"
    lines = [head]
    for name, r in reports.items():
        rate = r.inputs / r.seconds if r.seconds else 0.0
        lines.append(
            f"{name:26} {r.inputs:9,} {r.taken:8,} {r.refused:8,} {r.crashes:8} {r.hangs:6} {r.tracebacks:11} {r.slowest:10.2f} "
            f"{r.peak_mib:9,} {rate:9,.0f}"
        )
    if len(reports) > 1:
        total = sum(r.inputs for r in reports.values())
        faults = sum(len(r.faults) for r in reports.values())
        lines.append(
            f"in all {total:,} inputs, {faults} faults, peak {max(r.peak_mib for r in reports.values()):,} MiB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
