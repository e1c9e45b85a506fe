"""Element types: one name for each, shared by the captured network, the bundle and the runtimes.

Names are NumPy's where NumPy (with ``ml_dtypes``) has the type. ``ml_dtypes`` gives NumPy the bfloat16, FP8 and
4-bit types that TensorRT uses; its arrays interoperate with ordinary NumPy arithmetic.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tt_edge.compat import StrEnum


class DType(StrEnum):
    """Element type of a tensor. The value is what ``network.json`` and ``manifest.json`` store."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FP8 = "float8_e4m3fn"
    FP4 = "float4_e2m1fn"
    INT64 = "int64"
    INT32 = "int32"
    INT8 = "int8"
    INT4 = "int4"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype:
        """The NumPy type of one unpacked element (4-bit types occupy one byte each once unpacked)."""
        return _NUMPY[self]

    @property
    def bits(self) -> int:
        """Bits of one element in storage and on the device."""
        if self in (DType.INT4, DType.FP4):
            return 4
        return self.numpy.itemsize * 8

    @property
    def is_floating(self) -> bool:
        return self in (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.FP8, DType.FP4)

    def nbytes(self, count: int) -> int:
        """Bytes that ``count`` elements occupy, 4-bit types packed two to a byte."""
        return (count * self.bits + 7) // 8

    @classmethod
    def of(cls, array_or_dtype: np.ndarray | np.dtype | type) -> DType:
        """The ``DType`` of a NumPy array or dtype. Raises ``ValueError`` for a type that TensorRT lacks."""
        dtype = array_or_dtype.dtype if isinstance(array_or_dtype, np.ndarray) else np.dtype(array_or_dtype)
        return cls(dtype.name)


_NUMPY = {dtype: np.dtype(getattr(ml_dtypes, dtype.value, None) or dtype.value) for dtype in DType}
