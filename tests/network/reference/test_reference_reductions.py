from __future__ import annotations

import numpy as np
import pytest
from building import evaluate
from oracle import assert_rounded, to_torch, torch

from tt_edge.dtypes import DType

REDUCTIONS = {
    "SUM": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "MAX": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "MIN": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "AVG": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "PROD": lambda x, axes, keep: x.flatten(1).prod(1).reshape((-1, 1, 1) if keep else (-1,)),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reduce(op, keep, normal):
    x = normal(3, 4, 5)
    value = evaluate("REDUCE", x, rank=3 if keep else 1, op=op, axes=0b110, keep_dims=keep)
    assert_rounded(value, REDUCTIONS[op](to_torch(x, True), (1, 2), keep))


def test_low_precision_sums_do_not_stagnate():
    x = np.ones((1, 100_000), np.float16)  # a float16 accumulator stops at 2048
    assert evaluate("REDUCE", x, rank=1, op="AVG", axes=2, keep_dims=False).tolist() == [1.0]


def test_reduce_over_an_empty_volume():
    x = np.zeros((2, 0), np.float32)
    results = {op: evaluate("REDUCE", x, rank=1, op=op, axes=2, keep_dims=False)[0] for op in REDUCTIONS}
    assert np.isnan(results.pop("AVG"))
    assert results == {"SUM": 0, "PROD": 1, "MAX": -np.inf, "MIN": np.inf}
    integers = np.zeros((2, 0), np.int32)
    assert evaluate("REDUCE", integers, rank=1, op="MAX", axes=2, keep_dims=False)[0] == np.iinfo(np.int32).min


def test_integer_reductions_keep_their_type(rng):
    x = rng.integers(-9, 9, (4, 6), dtype=np.int32)
    np.testing.assert_array_equal(evaluate("REDUCE", x, rank=1, op="SUM", axes=2, keep_dims=False), x.sum(1))
    average = evaluate("REDUCE", x, rank=1, op="AVG", axes=2, keep_dims=False)
    np.testing.assert_array_equal(average, np.trunc(x.sum(1) / 6))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(normal, axis):
    x = normal(4, 5, 6) * 4
    before = x.copy()
    assert_rounded(evaluate("SOFTMAX", x, axes=1 << axis), to_torch(x, True).softmax(axis))
    np.testing.assert_array_equal(x, before)


def test_layer_normalization(normal):
    x, scale, bias = normal(2, 7, 64), normal(1, 1, 64), normal(1, 1, 64)
    value = evaluate(
        "NORMALIZATION", x, scale, bias, axes=0b100, epsilon=1e-5, num_groups=1, is_v2=True, constants=(1, 2)
    )
    wide = [to_torch(t, True) for t in (x, scale, bias)]
    expected = torch.nn.functional.layer_norm(wide[0], (64,), wide[1][0, 0], wide[2][0, 0], 1e-5)
    assert_rounded(value, expected, scale=4)


def test_instance_normalization(normal):
    x, scale, bias = normal(2, 6, 5, 4), normal(1, 6, 1, 1), normal(1, 6, 1, 1)
    value = evaluate("NORMALIZATION", x, scale, bias, axes=0b1100, epsilon=1e-3, num_groups=1, is_v2=True)
    wide = [to_torch(t, True) for t in (x, scale, bias)]
    expected = torch.nn.functional.instance_norm(wide[0], weight=wide[1].flatten(), bias=wide[2].flatten(), eps=1e-3)
    assert_rounded(value, expected, scale=4)


@pytest.mark.parametrize("version", [1, 2])
def test_group_normalization(normal, version):
    x = normal(2, 6, 5, 4)
    channels = 6 if version == 2 else 3
    scale, bias = normal(1, channels, 1, 1), normal(1, channels, 1, 1)
    value = evaluate("NORMALIZATION", x, scale, bias, axes=0b1100, epsilon=1e-5, num_groups=3, is_v2=version == 2)
    gain, offset = (to_torch(t, True).flatten().repeat_interleave(6 // channels) for t in (scale, bias))
    assert_rounded(value, torch.nn.functional.group_norm(to_torch(x, True), 3, gain, offset, 1e-5), scale=4)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_cumulative_sum_of_the_header(rng, exclusive, reverse):
    x = rng.integers(-5, 5, (3, 6), dtype=np.int32)
    expected = np.zeros_like(x)
    for j in range(6):
        first, last = (j, 6) if reverse else (0, j + 1)
        first, last = (first + (exclusive and reverse), last - (exclusive and not reverse))
        expected[:, j] = x[:, first:last].sum(1)
    value = evaluate(
        "CUMULATIVE", x, np.array(-1, np.int32), op="SUM", exclusive=exclusive, reverse=reverse, constants=(1,)
    )
    np.testing.assert_array_equal(value, expected)


def test_cumulative_sum_of_floats(normal):
    x = normal(5, 8)
    value = evaluate("CUMULATIVE", x, np.array(0), op="SUM", exclusive=False, reverse=False)
    assert_rounded(value, to_torch(x, True).cumsum(0))


def test_dtype_of_reduction_follows_the_output(normal, dtype):
    assert evaluate("REDUCE", normal(2, 3), rank=0, op="SUM", axes=3, keep_dims=False).dtype == dtype.numpy
    assert DType.of(evaluate("REDUCE", normal(2, 3), rank=0, op="MAX", axes=3, keep_dims=False).dtype) is dtype
