"""The order of Int4GroupwiseGemmPlugin's weights: there and back, and place by place as the contract words it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tt_edge.plugins.ops.int4_gemm_plugin  # noqa: F401  (defines the operator)
from tt_edge.errors import InvalidInputError
from tt_edge.plugins.edgellm.int4_packing import dequantize, fits, pack, unpack


def codes(rows, columns, seed=0):
    return np.random.default_rng(seed).integers(-8, 8, (rows, columns)).astype(np.int8)


def nibble_at(packed, row, column):
    """The nibble of one element, found by following the contract's steps for only that element."""
    columns = packed.shape[1]
    block, inner = divmod(column, 32)
    quarter, pair, which = inner // 8, inner % 8 // 2, inner % 2
    inner = pair * 8 + quarter * 2 + which  # reshape(4, 4, 2), transpose(1, 0, 2)
    inner = inner // 8 * 8 + [0, 2, 4, 6, 1, 3, 5, 7].index(inner % 8)
    column = block * 32 + inner
    # Stripes of 64 columns of four rows follow one another; four nibbles are a word.
    place = (row // 4 * (columns // 64) + column // 64) * 256 + row % 4 * 64 + column % 64
    words = packed.view("<u2").reshape(-1)
    return words[place // 4] >> (place % 4 * 4) & 15


def test_every_element_is_where_the_contract_puts_it():
    values = codes(8, 256)
    packed = pack(values)
    assert (packed.shape, packed.dtype) == ((4, 256), np.int8)
    found = [[nibble_at(packed, row, column) for column in range(256)] for row in range(8)]
    assert np.array_equal(np.array(found, np.int8) - 8, values)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_there_and_back(rows, columns, seed):
    values = codes(4 * rows, 128 * columns, seed)
    assert np.array_equal(unpack(pack(values)), values)


@pytest.mark.parametrize(("rows", "columns", "group"), [(6, 128, 128), (8, 64, 128), (8, 256, 64), (8, 192, 128)])
def test_what_does_not_fit(rows, columns, group):
    assert not fits(rows, columns, group)
    if group == 128:
        with pytest.raises(InvalidInputError, match=rf"{rows} x {columns} does not fit .*--int4-gemm ootb"):
            pack(codes(rows, columns))


def test_the_operator_multiplies_by_the_weight_that_was_packed():
    values, scales = codes(12, 256), np.random.default_rng(1).random((2, 12)).astype(np.float16)
    weight = values.astype(np.float32) * np.repeat(scales.T.astype(np.float32), 128, axis=1)
    assert np.array_equal(dequantize(pack(values), scales), weight)
    x = torch.randn(2, 3, 256)
    out = torch.ops.tt_edge.int4_groupwise_gemm(x, torch.from_numpy(pack(values)), torch.from_numpy(scales), "0.11")
    torch.testing.assert_close(out, x @ torch.from_numpy(weight).T)
