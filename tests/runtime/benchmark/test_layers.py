"""Layer times from TensorRT's profiler, on fakes each call of which is checked against the real bindings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.models.decoders import compiled
from tests.runtime.engine.fake_session import Fake, fake, names
from tt_edge.cli.profile import render_times
from tt_edge.contract import ONE_PROFILE
from tt_edge.errors import CapacityError
from tt_edge.runtime.benchmark.layers import measure_layers

__all__ = ["fake"]


def expected(fake):
    """The fake engine's n-th layer takes n microseconds."""
    return {layer.name: pytest.approx((number + 1) * 1e-3) for number, layer in enumerate(fake.network.layers)}


def test_both_phases(fake):
    fake.engine.capturing = lambda: fake.cuda.capturing is not None
    with fake.open() as session:
        found = measure_layers(session, batch=2, isl=7, past=20, runs=4)
    assert [(times.new_tokens, times.past_tokens) for times in found.values()] == [(7, 0), (1, 20)]
    for times in found.values():
        assert times.layers == expected(fake)
        assert times.layers_ms == pytest.approx(sum(times.layers.values()))
        assert times.step_ms > 0
    assert names(fake.calls).count("profiler =") == 2, "one for each context"
    assert fake.cuda.launches, "steps without the profiler are launched as graphs"


def test_one_profile(monkeypatch, tmp_path):
    network, contract = compiled()
    fake = Fake(monkeypatch, tmp_path, network, replace(contract, phases=ONE_PROFILE))
    with fake.open() as session:
        found = measure_layers(session, batch=1, isl=8, past=3, runs=2)
    assert found["prefill"].layers == found["decode"].layers == expected(fake)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"batch": 4}, "--batch is 4; the bundle takes 1 to 3"),
        ({"isl": 9}, "--isl is 9; the bundle takes 1 to 8"),
        ({"past": 48}, "--past is 48; the bundle takes 1 to 47"),
    ],
)
def test_lengths_that_the_engine_does_not_take(fake, lengths, message):
    with fake.open() as session, pytest.raises(CapacityError, match=message):
        measure_layers(session, **{"batch": 1, "isl": 8, "past": 8, "runs": 1, **lengths})


def test_the_table(fake):
    with fake.open() as session:
        found = measure_layers(session, batch=1, isl=8, past=8, runs=1)
    few, every = (render_times(found, 1, 1, "executed by a fake", layers).splitlines() for layers in (False, True))
    assert few[0].startswith("prefill: batch 1, 8 new tokens behind 0; a step takes ")
    assert few[2].split()[-1] == fake.network.layers[-1].name, "the slowest first"
    assert len(few) == 2 * (2 + 10 + 1) + 1
    assert len(every) == 2 * (2 + len(fake.network.layers) + 1) + 1
    assert every[-1] == "means of 1 steps; executed by a fake"
    json.dumps(found["decode"].to_dict())
