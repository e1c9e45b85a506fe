"""Lengths and arrivals: reproducible, distributed as asked, within limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.runtime.benchmark.workload import Arrivals, Lengths, Plan, arrival_times


def draw(text: str, count: int = 20_000) -> np.ndarray:
    return np.array(Lengths.parse(text, "--isl-dist").draw(np.random.default_rng(0), 400, count, 100_000))


def test_lengths():
    assert set(draw("fixed")) == {400}
    uniform = draw("uniform:0.25")
    assert (uniform.min(), uniform.max()) == (300, 500)
    assert uniform.mean() == pytest.approx(400, rel=0.01)
    normal = draw("normal:0.1")
    assert (normal.mean(), normal.std()) == (pytest.approx(400, rel=0.01), pytest.approx(40, rel=0.05))
    logarithm = np.log(draw("lognormal:0.5"))
    assert (logarithm.mean(), logarithm.std()) == (pytest.approx(math.log(400), abs=0.02), pytest.approx(0.5, rel=0.05))


@pytest.mark.parametrize("text", ["zipf", "uniform:2", "normal:x", "lognormal:-1", "normal:nan", "fixed:1", ""])
def test_lengths_that_do_not_exist(text):
    with pytest.raises(InvalidInputError, match="--isl-dist is "):
        Lengths.parse(text, "--isl-dist")


def test_arrivals():
    random = np.random.default_rng(0)
    poisson = arrival_times(random, Arrivals.POISSON, 5.0, 20_000, 1)
    gaps = np.diff(poisson)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() == pytest.approx(0.2, rel=0.03), "exponential: as wide as its mean"
    assert arrival_times(random, Arrivals.CONSTANT, 4.0, 3, 1) == [0, 0.25, 0.5]
    assert arrival_times(random, Arrivals.BURST, 4.0, 5, 2) == [0, 0, 0.5, 0.5, 1.0]
    assert arrival_times(random, Arrivals.POISSON, math.inf, 3, 1) == [0, 0, 0]


def test_sizes_are_within_the_limit_and_reproducible():
    plan = Plan(
        60,
        20,
        rate=1.0,
        requests=500,
        isl_dist=Lengths.parse("lognormal:1", ""),
        osl_dist=Lengths.parse("normal:1", ""),
    )
    sizes = plan.sizes(100)
    assert sizes == plan.sizes(100)
    assert all(size.input >= 1 and size.output >= 1 and sum(size) <= 100 for size in sizes)
    assert len(set(sizes)) > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isl": 0}, "--isl is 0; a benchmark needs at least 1"),
        ({"osl": 1}, "--osl is 1; a benchmark needs at least 2"),
        ({"runs": 0}, "--runs is 0"),
        ({"rate": 0.0}, "--rate is 0; give requests per second above 0"),
        ({"rate": math.nan}, "--rate is nan"),
        ({"turns": 3, "rate": 1.0}, "omit --rate"),
        ({"isl_dist": Lengths.parse("normal", "")}, "give --rate too"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Plan(**{"isl": 8, "osl": 8} | options)


def test_what_does_not_fit():
    Plan(8, 8, batch=2).check_fits(16, 2)
    with pytest.raises(
        CapacityError, match="--isl 8 and --osl 9 make sequences of 17 tokens, more than max_seq_len 16"
    ):
        Plan(8, 9).check_fits(16, 1)
    with pytest.raises(CapacityError, match="5 shared tokens and 2 turns of --isl 2 and --osl 4 make 17 tokens"):
        Plan(2, 4, prefix=5, turns=2).check_fits(16, 1)
    with pytest.raises(CapacityError, match="--batch is 3, and the bundle has 2 slots"):
        Plan(8, 8, batch=3).check_fits(16, 2)
