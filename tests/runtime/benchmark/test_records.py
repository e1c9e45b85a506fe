"""Metrics as the field defines them, on times that are given."""

from __future__ import annotations

import json

import pytest

from tt_edge.errors import EngineError
from tt_edge.runtime.benchmark.energy import Energy
from tt_edge.runtime.benchmark.records import Distribution, Measured, RequestTimes
from tt_edge.runtime.benchmark.tables import full_table, speed_table

ONE = RequestTimes(
    10.0, (10.5, 10.6, 10.8, 10.9), input_tokens=100, output_tokens=4, computed_from=10.25, reused_tokens=25
)
#: Two tokens came in one piece.
TWO = RequestTimes(10.0, (10.7, 10.9), input_tokens=100, output_tokens=3, computed_from=10.5, reused_tokens=75)


def test_a_request():
    assert ONE.ttft_s == pytest.approx(0.5)
    assert ONE.prefill_s == pytest.approx(0.25)
    assert ONE.tpot_s == pytest.approx(0.4 / 3), "the first token does not count"
    assert TWO.tpot_s == pytest.approx(0.2 / 2), "tokens, not pieces"
    assert ONE.end_to_end_s == pytest.approx(0.9)
    assert RequestTimes(0.0, (1.0,), 5, 1).tpot_s is None
    assert RequestTimes(0.0, (1.0,), 5, 3).tpot_s is None, "three tokens in one piece: how long one takes is unknown"


def test_latencies():
    found = Measured("it", [ONE, TWO]).latencies()
    assert list(found) == ["prefill", "ttft", "tpot", "itl", "end_to_end"]
    assert found["ttft"].mean == pytest.approx(600)
    assert found["itl"].max == pytest.approx(200), "the gaps of all requests: 100, 200, 100, 200"
    assert found["itl"].p50 == pytest.approx(150)


def test_percentiles_are_interpolated():
    found = Distribution.of(range(101))
    assert (found.p50, found.p90, found.p99, found.min, found.max) == (50, 90, 99, 0, 100)
    assert Distribution.of([]) is None


def test_throughput():
    rates = Measured("it", [ONE, TWO]).throughput()
    # Computed: 75 and 25 tokens, from 10.25 to 10.7. Decoded: 3 and 2 tokens, from 10.5 to 10.9.
    assert rates["prefill_tokens_per_s"] == pytest.approx(100 / 0.45)
    assert rates["decode_tokens_per_s"] == pytest.approx(5 / 0.4)
    assert rates["output_tokens_per_s"] == pytest.approx(7 / 0.9)
    assert rates["requests_per_s"] == pytest.approx(2 / 0.9)


def test_idle_time_between_requests_does_not_count():
    later = RequestTimes(100.0, (100.5, 100.9), input_tokens=1, output_tokens=2)
    assert Measured("it", [ONE, later]).throughput()["requests_per_s"] == pytest.approx(2 / 1.8)


def test_reuse_and_turns():
    second = RequestTimes(11.0, (11.1,), 100, 1, reused_tokens=90, turn=2)
    measured = Measured("it", [ONE, TWO, second])
    assert measured.reuse() == pytest.approx(190 / 300)
    assert {turn: part.reuse() for turn, part in measured.turns().items()} == {1: 0.5, 2: 0.9}
    assert Measured("it", [RequestTimes(0.0, (1.0,), 5, 1)]).reuse() is None
    assert measured.to_dict()["turns"]["2"]["reuse"] == 0.9
    failed = Measured("it", [ONE, second, RequestTimes(12.0, turn=3, error="400: too long")])
    assert list(failed.turns()) == [1, 2], "only turns that were answered"
    assert "turn 2" in full_table([failed])


def test_failures_are_counted_and_not_timed():
    measured = Measured("it", [ONE, RequestTimes(0.0, error="500: no")], energy=Energy(8.0, 2.0, "NVML, it"))
    facts = json.loads(json.dumps(measured.to_dict()))
    assert (facts["requests"], facts["failed"]) == (1, ["500: no"])
    assert facts["energy"]["joules_per_output_token"] == 2.0
    text = full_table([measured])
    assert "1 of 2 requests, the first: 500: no" in text
    assert "8.0 J, mean 4.0 W, 2.000 J per output token (NVML, it)" in text
    with pytest.raises(EngineError, match=r"no request was answered \(500: no\)"):
        Measured("it", [RequestTimes(0.0, error="500: no")]).latencies()


def test_a_row_of_medians():
    row = speed_table([Measured("it", [ONE, TWO])]).splitlines()[1].split()
    assert row[:4] == ["225.00", "600.00", "116.667", "12.5"]
