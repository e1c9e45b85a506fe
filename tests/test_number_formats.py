"""The facts of each number format, against ml_dtypes, which has them from the formats' specifications."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tt_edge.dtypes import DType
from tt_edge.number_formats import E2M1_MAGNITUDES, E2M1_MIDPOINTS, E2M1_VALUES, RANGES, unpack_nibbles

CODES = np.arange(16, dtype=np.uint8)


@pytest.mark.parametrize("dtype", list(RANGES))
def test_ranges(dtype):
    info = (ml_dtypes.finfo if dtype.is_floating else ml_dtypes.iinfo)(dtype.numpy)
    assert RANGES[dtype] == (float(info.min), float(info.max))


def test_e2m1_values_are_those_of_its_codes():
    want = CODES.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    got = np.array(E2M1_VALUES, np.float32)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))  # minus zero


def test_midpoints_lie_between_neighbours():
    magnitudes = np.array(E2M1_MAGNITUDES)
    np.testing.assert_array_equal(E2M1_MIDPOINTS, (magnitudes[1:] + magnitudes[:-1]) / 2)


@pytest.mark.parametrize("dtype", [DType.INT4, DType.FP4])
def test_the_low_nibble_comes_first(dtype):
    packed = CODES[0::2] | CODES[1::2] << 4
    values = unpack_nibbles(packed, dtype, 15).astype(np.float32)
    want = {DType.INT4: [*range(8), *range(-8, 0)], DType.FP4: E2M1_VALUES}[dtype]
    np.testing.assert_array_equal(values, want[:15])
