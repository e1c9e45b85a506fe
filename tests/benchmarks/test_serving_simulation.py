"""The figures of docs/explanation/serving.md: serving under load, with the real scheduler and simulated time."""

from __future__ import annotations

import pytest

from benchmarks.serving_simulation import simulate


# Mean and median TTFT in seconds of the scheduler that fed all slots at the width of the widest.
@pytest.mark.parametrize(
    ("slots", "rate", "ttft_mean", "ttft_p50"), [(4, 0.5, 0.140, 0.125), (8, 1.0, 0.258, 0.230), (8, 2.0, 2.105, 2.172)]
)
def test_little_padding_and_short_waits(slots, rate, ttft_mean, ttft_p50):
    result = simulate(slots, rate)
    assert result["useful"] >= 0.9
    assert result["ttft_mean"] <= ttft_mean
    assert result["ttft_p50"] <= ttft_p50
    # Of the tokens as a client sees them.
    assert result["ratio"] <= 2
    # A piece of 448 tokens between two decode steps: 21 + 42 ms.
    assert result["chosen_worst"] <= 0.064
    assert result["held"] <= 0.064, "three decode steps"
