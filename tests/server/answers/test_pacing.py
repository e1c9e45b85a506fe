"""What holding a few pieces does to the gaps that a client sees. On a clock of its own: no test waits."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks.serving_simulation import Clock, paced
from tt_edge.server.answers.pacing import HELD, Pacer
from tt_edge.server.answers.responses import _merged
from tt_edge.server.errors import ApiError


def sent_at(arrivals):
    """When a client gets the pieces of an answer that come at ``arrivals``."""
    times = np.array(paced(arrivals))
    assert len(times) == len(arrivals)
    return times


def test_gaps_are_spread():
    """Every second of some steps computes a piece of a prompt, too."""
    steps = np.full(200, 0.021)
    steps[[60, 62, 64, 120, 122]] = 0.063
    arrivals = np.cumsum(steps)
    times = sent_at(arrivals)
    assert times[0] == arrivals[0]
    assert times[-1] == arrivals[-1], "the answer is complete as early as before"
    assert (times >= arrivals).all()
    assert (times[:-HELD] <= arrivals[HELD:] + 1e-9).all(), "no more than HELD pieces wait"
    between = np.diff(times)
    assert np.percentile(between, 99) <= 2 * np.median(between) < 3 * 0.021 == pytest.approx(np.diff(arrivals).max())
    assert np.median(between) == pytest.approx(0.021, rel=0.02)


def test_even_pieces_stay_even():
    between = np.diff(sent_at(np.arange(50) * 0.02))
    assert between[8:-HELD] == pytest.approx(0.02)


def test_pieces_of_a_slow_model_are_not_held():
    arrivals = np.arange(20) * 1.5
    assert sent_at(arrivals) == pytest.approx(arrivals)


def test_what_is_closed_sends_no_more():
    clock, sent = Clock(), []
    pacer = Pacer(sent.append, clock)
    for number, when in enumerate([0.0, 0.05, 0.1]):
        clock.run_until(when)
        pacer.add(number)
    pacer.close()
    clock.run_until(9)
    assert sent == [0, 1]


def test_what_is_held_is_sent_when_the_time_is_over():
    came, sent = [], []

    class Endless:
        async def __aiter__(self):
            for number in range(6):
                await asyncio.sleep(0.03)
                came.append(number)
                yield number
            await asyncio.sleep(60)

    async def asked() -> None:
        async for _, piece in _merged([Endless()], 0.17):
            sent.append(piece)

    with pytest.raises(ApiError, match="took longer than"):
        asyncio.run(asked())
    assert sent == came
