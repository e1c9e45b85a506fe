"""The number formats of quantized weights, activations and caches: ranges, codes, blocks, and nibbles in NumPy.

Torch-free. ``tt_edge.plugins.ops.number_formats`` has the same conversions for torch tensors.
"""

from __future__ import annotations

import numpy as np

from tt_edge.dtypes import DType

#: Largest value of each type.
FP8_MAX, FP4_MAX, INT8_MAX, INT4_MAX = 448.0, 6.0, 127.0, 7.0

#: Smallest and largest value of each quantized type (NvInfer.h, ``IQuantizeLayer``). FP8 is E4M3, FP4 is E2M1.
RANGES = {
    DType.INT8: (-INT8_MAX - 1, INT8_MAX),
    DType.INT4: (-INT4_MAX - 1, INT4_MAX),
    DType.FP8: (-FP8_MAX, FP8_MAX),
    DType.FP4: (-FP4_MAX, FP4_MAX),
}

#: Magnitudes of the E2M1 codes 0 to 7 (a sign, two bits of exponent, one of mantissa), and the midpoints between them.
E2M1_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E2M1_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
#: Values of the E2M1 codes 0 to 15.
E2M1_VALUES = (*E2M1_MAGNITUDES, *(-magnitude for magnitude in E2M1_MAGNITUDES))

#: Elements that share one E4M3 scale in NVFP4.
NVFP4_BLOCK = 16


def unpack_nibbles(packed: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Unpack ``count`` elements of a 4-bit ``dtype`` from uint8 bytes with two elements each, low nibble first."""
    pairs = packed.reshape(-1).view(np.uint8)
    nibbles = np.empty((pairs.size, 2), np.uint8)
    np.bitwise_and(pairs, 15, out=nibbles[:, 0])
    np.right_shift(pairs, 4, out=nibbles[:, 1])
    values = nibbles.reshape(-1)[:count]
    if dtype is DType.INT4:
        signed = (values ^ 8).astype(np.int8)
        signed -= 8
        return signed.astype(dtype.numpy)
    return values.view(dtype.numpy)
