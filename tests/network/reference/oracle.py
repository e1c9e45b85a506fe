"""PyTorch as the oracle: array conversion, and closeness in units of the output type's rounding."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.dtypes import DType

torch = pytest.importorskip("torch")

TYPES = {
    DType.FLOAT32: torch.float32,
    DType.FLOAT16: torch.float16,
    DType.BFLOAT16: torch.bfloat16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.BOOL: torch.bool,
}

# Half the spacing of the type at 1.0: the largest relative error of one rounding.
ROUNDING = {DType.FLOAT32: 2.0**-24, DType.FLOAT16: 2.0**-11, DType.BFLOAT16: 2.0**-8}


def to_torch(array: np.ndarray, wide: bool = False):
    """The array as a tensor; ``wide`` in float64 if it is floating."""
    dtype = DType.of(array.dtype)
    if not dtype.is_floating:
        return torch.from_numpy(np.array(array))
    exact = torch.from_numpy(array.astype(np.float64))
    return exact if wide else exact.to(TYPES[dtype])


def to_numpy(tensor) -> np.ndarray:
    return tensor.detach().double().numpy() if tensor.is_floating_point() else tensor.numpy()


def assert_rounded(value: np.ndarray, exact, roundings: float = 1.5, scale: float | None = None) -> None:
    """``value`` is the float64 tensor ``exact`` to within ``roundings`` roundings of its type.

    Relative to each element, and to ``scale`` (default: the largest magnitude) for what float32 sums cancel.
    """
    unit = ROUNDING[DType.of(value.dtype)]
    expected = to_numpy(exact)
    largest = float(np.abs(expected).max(initial=0.0)) if scale is None else scale
    bound = roundings * unit * np.abs(expected) + 64 * ROUNDING[DType.FLOAT32] * largest
    if value.dtype == np.float16:
        bound = bound + 2.0**-25
    np.testing.assert_array_less(np.abs(value.astype(np.float64) - expected), bound + 1e-30)
