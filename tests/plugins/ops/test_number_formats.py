"""The torch functions over number formats, against ml_dtypes and the NumPy side."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from tt_edge.dtypes import DType
from tt_edge.number_formats import unpack_nibbles as unpack_in_numpy
from tt_edge.plugins.ops.number_formats import (
    e2m1_codes,
    e2m1_values,
    pack_nibbles,
    unpack_nibbles,
    unpack_signed_nibbles,
)


def test_e2m1_rounds_as_ml_dtypes_does():
    x = torch.cat([torch.linspace(-6, 6, 4001), torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -5.0])])
    want = x.numpy().astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(e2m1_values(e2m1_codes(x)).numpy(), want)
    assert e2m1_values(e2m1_codes(torch.tensor([100.0, -100.0]))).tolist() == [6.0, -6.0]


def test_nibbles_go_in_and_out():
    codes = torch.randint(0, 16, (3, 10), dtype=torch.uint8)
    packed = pack_nibbles(codes)
    assert packed.shape == (3, 5)
    assert torch.equal(unpack_nibbles(packed), codes)


def test_signed_nibbles_are_what_numpy_reads():
    codes = torch.randint(-8, 8, (3, 10), dtype=torch.int8)
    packed = pack_nibbles(codes)
    assert torch.equal(unpack_signed_nibbles(packed), codes)
    read = unpack_in_numpy(packed.numpy(), DType.INT4, 30).astype(np.int8)
    np.testing.assert_array_equal(read.reshape(3, 10), codes.numpy())
