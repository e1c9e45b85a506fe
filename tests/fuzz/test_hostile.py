"""A short run of what ``long_run.py`` does at length, and the workers that it trusts."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.fuzz import long_run
from tests.fuzz.targets import TARGETS
from tests.fuzz.workers import run_limited
from tt_edge.errors import BundleError


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name):
    """The same inputs every time; ``python -m tests.fuzz.long_run`` has others, and more."""
    pytest.importorskip("pydantic")
    pytest.importorskip("transformers")
    report = long_run.run({name: TARGETS[name]}, 60, 0, 60.0, 4 << 30)[name]
    assert report.faults == []
    assert report.inputs == 60


def test_the_shares_add_up():
    assert sum(share for _, share in TARGETS.values()) == 100


def outcome(run, seeds=range(6), **limits):
    return run_limited(lambda: run, seeds, **limits)


def test_a_worker_that_dies_is_replaced():
    report = outcome(lambda seed: os.kill(os.getpid(), signal.SIGKILL) if seed == 2 else None)
    assert (report.taken, report.crashes, report.inputs) == (5, 1, 6)
    assert [seed for seed, _ in report.faults] == [2]


def test_a_worker_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr("tests.fuzz.workers.MAX_SECONDS", 0.1)
    report = outcome(lambda seed: time.sleep(60 if seed == 3 else 0))
    assert (report.taken, report.hangs) == (5, 1)
    assert [seed for seed, _ in report.faults] == [3]


def test_a_traceback_and_an_error_of_two_lines_are_faults():
    def run(seed):
        if seed == 1:
            raise KeyError("x")
        if seed == 4:
            raise BundleError("one line of two\nand the other")
        raise BundleError("a line that says what is wrong")

    report = outcome(run)
    assert (report.refused, report.tracebacks) == (5, 1)
    assert [seed for seed, _ in report.faults] == [1, 4]


def test_memory_is_limited():
    report = outcome(lambda seed: bytearray(1 << 30), range(1), memory=256 << 20)
    assert [text.split()[0] for _, text in report.faults] == ["MemoryError"]
