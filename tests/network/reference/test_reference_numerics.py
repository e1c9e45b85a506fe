"""Rounding to 16-bit floats that are carried in float32, against NumPy's own conversion."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tt_edge.dtypes import DType
from tt_edge.network.reference.numerics import round_to_half, rounded, rounding, stored, widening


def bits_of(x: np.ndarray) -> np.ndarray:
    assert x.dtype == np.float32
    return x.view(np.uint32)


def halves_and_ties() -> np.ndarray:
    """Every finite float16, every tie between two of them, and the float32 next to each on both sides."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[1:] + halves[:-1]) / 2
    exact = np.concatenate([halves, ties])
    near = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(0))])
    return np.concatenate([near, -near])


def test_all_finite_halves_and_their_ties_round_as_numpy_rounds():
    x = halves_and_ties()
    assert (bits_of(round_to_half(x)) == bits_of(x.astype(np.float16).astype(np.float32))).all()


@pytest.mark.parametrize("value", [65519.99, 65520.0, 1e30, 2.0**115, np.inf, -np.inf, np.nan])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_one_value_beyond_the_range_among_many(value):
    x = halves_and_ties()
    x[1000] = value
    expected = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(round_to_half(x), expected)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (64, 65), (4096,)])
def test_any_shape_and_layout(shape):
    x = np.random.default_rng(0).normal(0, 1e-3, shape).astype(np.float32)
    for layout in (x, x.T):
        np.testing.assert_array_equal(round_to_half(layout), layout.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_a_carried_array_is_read_uncopied_and_stored_exactly(dtype):
    x = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    carried = rounding(dtype)(x)
    assert carried.dtype == np.float32
    assert widening(dtype)(carried) is carried
    assert stored(carried, dtype).dtype == dtype.numpy
    np.testing.assert_array_equal(stored(carried, dtype), x.astype(dtype.numpy))
    np.testing.assert_array_equal(widening(dtype)(x.astype(dtype.numpy)), carried)


def test_eight_bit_floats_are_arrays_of_their_type():
    x = np.float32([1.0, 2.3, -7.7])
    assert rounding(DType.FP8)(x).dtype == ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize("large", [1.0, 1e5], ids=["in range", "beyond it"])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_function_is_rounded_a_block_at_a_time(large):
    """Blocks change nothing: the last one is partial, and one value beyond the range sends the whole array to NumPy."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 300, 701)).astype(np.float32)
    x[-1, -1], y[-1, -1] = large, 2.0
    for a, b in ((x, y), (x, y[:1]), (x.T, y.T)):  # the last two are computed at once
        expected = (a * b).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(rounded(np.multiply, DType.FLOAT16)(a, b), expected)
