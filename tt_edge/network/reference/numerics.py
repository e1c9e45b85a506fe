"""Number formats: reading stored weights, widening to float32, rounding back, and the error function NumPy lacks.

Low-precision layers compute in float32 and round once, to nearest with ties to even, at their output. NumPy's own
float16 arithmetic does the same one element at a time, about twenty times slower.

Between layers, a float16 or bfloat16 tensor is *carried*: its rounded values are held in a float32 array, so that no
reader converts them again. Only what enters or leaves the evaluator (inputs, the KV cache, weights, outputs) has the
16-bit type.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import BundleError
from tt_edge.number_formats import unpack_nibbles

#: Maps an array to an array of the same shape in another number format.
Converter = Callable[[np.ndarray], np.ndarray]


def namespace(x: Any) -> Any:
    """The module whose arrays ``x`` is one of: ``numpy`` or ``cupy``."""
    return np if isinstance(x, np.ndarray) else sys.modules["cupy"]


# Types whose values are carried in float32.
_CARRIED = (DType.FLOAT16, DType.BFLOAT16)

# Below so many elements NumPy's conversion loops beat the whole-array bit operations. CuPy's always do.
_SMALL_TO_WIDEN = 8192
_SMALL_TO_ROUND = 2048
#: Elements that are rounded at a time: what is made on the way stays in a core's cache. A whole temporary array would be
#: new pages from the operating system each time, which costs more than the arithmetic.
_BLOCK = 1 << 16
_HALF_SIGN_AND_DIGITS = np.uint32(0x8FFFE000).view(np.int32)
_HALF_EXPONENT_SHIFT = np.float32(2.0**112)
# The smallest float32 that rounds to an infinite float16 rounds to this with unlimited exponents.
_HALF_OVERFLOW = 65536.0

_SIGN = np.int32(-(2**31))
_EXPONENT = np.int32(0x7F800000)
# 2**-14, the smallest normal float16: below it, all float16 have its spacing.
_HALF_NORMAL = np.int32(0x38800000)
# Adds 13, the digits that float16 lacks, to the exponent, and one half to the significand.
_HALF_MAGIC = np.int32(0x06C00000)


def half_to_float32(x: np.ndarray) -> np.ndarray:
    """Exact float32 values of a float16 array, six times faster than ``astype`` for large arrays.

    A float16 shifted left by 13 bits is a float32 whose exponent is short by 127 - 15 = 112; the product by 2**112
    repairs it, subnormals included. The all-ones exponent (infinity, NaN) comes out as 65536 or more, which no finite
    float16 reaches, and sends the array to ``astype``.
    """
    if x.size < _SMALL_TO_WIDEN or not isinstance(x, np.ndarray):
        return x.astype(np.float32)
    bits = x.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _HALF_SIGN_AND_DIGITS
    wide = bits.view(np.float32)
    wide *= _HALF_EXPONENT_SHIFT
    if not max(wide.max(), -wide.min()) < _HALF_OVERFLOW:
        return x.astype(np.float32)
    return wide


def round_to_half(x: np.ndarray) -> np.ndarray:
    """The float16 values nearest to float32 ``x``, ties to even, as float32: ``x.astype(float16).astype(float32)``.

    For large arrays four to five times faster. Adding 1.5 * 2**(e + 13) to a number of exponent e leaves no room for the 13
    digits that float16 lacks, so the addition rounds them, and the subtraction takes the summand away again. Zero keeps
    its sign. What overflows, infinity and NaN send the array to ``astype``.
    """
    if x.size < _SMALL_TO_ROUND or not isinstance(x, np.ndarray):
        return x.astype(np.float16).astype(np.float32)
    rounded = _round_in_blocks(_same, np.ascontiguousarray(x))
    return x.astype(np.float16).astype(np.float32) if rounded is None else rounded


def rounded(function: Callable[..., np.ndarray], dtype: DType) -> Callable[..., np.ndarray]:
    """``function`` of float32 arrays, element by element, with its float32 result rounded to ``dtype`` as ``rounding`` does."""
    write = rounding(dtype)

    def compute(*arrays: np.ndarray) -> np.ndarray:
        first = arrays[0]
        in_blocks = (
            dtype is DType.FLOAT16
            and first.size > _BLOCK
            and all(isinstance(x, np.ndarray) and x.shape == first.shape and x.flags.c_contiguous for x in arrays)
        )
        result = _round_in_blocks(function, *arrays) if in_blocks else None
        return write(function(*arrays)) if result is None else result

    return compute


def _round_in_blocks(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray | None:
    """``function`` of contiguous arrays of one shape, rounded to float16's values; ``None`` if one is beyond its range."""
    flat = [x.reshape(-1) for x in arrays]
    out = np.empty(flat[0].size, np.float32)
    work = np.empty(min(out.size, _BLOCK), np.int32)
    for start in range(0, out.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        if not _round_block(function(*(x[block] for x in flat)), out[block], work[: out[block].size]):
            return None
    return out.reshape(arrays[0].shape)


def _round_block(x: np.ndarray, out: np.ndarray, work: np.ndarray) -> bool:
    """Round float32 ``x`` into ``out``; whether all of it is within float16's range."""
    bits = x.view(np.int32)
    np.bitwise_and(bits, _EXPONENT, out=work)
    np.maximum(work, _HALF_NORMAL, out=work)
    work += _HALF_MAGIC
    summand = work.view(np.float32)
    np.add(x, summand, out=out)
    out -= summand
    np.bitwise_and(bits, _SIGN, out=work)
    out_bits = out.view(np.int32)
    out_bits |= work
    return bool(max(out.max(), -out.min()) < _HALF_OVERFLOW)


def _same(x: np.ndarray) -> np.ndarray:
    return x


def widening(dtype: DType) -> Converter:
    """The function that turns arrays of ``dtype``, or carried ones, into float32; float32 arrays pass uncopied."""
    if dtype is DType.FLOAT32:
        return _same
    widen = half_to_float32 if dtype is DType.FLOAT16 else lambda x: x.astype(np.float32)
    return lambda x: x if x.dtype == np.float32 else widen(x)


def rounding(dtype: DType) -> Converter:
    """The function that rounds float32 arrays to ``dtype``: to an array of that type, or for 16-bit floats a carried one.

    Float32 arrays pass uncopied where ``dtype`` is float32. Values beyond the range become infinities, or NaN in a type
    that has none (FP8); quantization clamps first.
    """
    if dtype is DType.FLOAT32:
        return _same
    if dtype is DType.FLOAT16:
        return round_to_half
    target = dtype.numpy
    if dtype in _CARRIED:
        return lambda x: x.astype(target).astype(np.float32)
    return lambda x: x.astype(target)


def stored(x: np.ndarray, dtype: DType) -> np.ndarray:
    """``x`` in ``dtype``'s own array type; exact for a carried array, which is copied. Others pass uncopied."""
    return x.astype(dtype.numpy) if dtype in _CARRIED and x.dtype == np.float32 else x


def stored_weight(key: str, stored: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """The array of ``shape`` and ``dtype`` held by ``Network.weights[key]``; 4-bit types are unpacked to one per byte.

    Raises ``BundleError`` when the stored bytes do not hold exactly that many elements.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if dtype.bits == 4 and stored.dtype == np.uint8:
        if stored.nbytes == dtype.nbytes(count):
            return unpack_nibbles(stored, dtype, count).reshape(shape)
    elif stored.size == count and stored.dtype == dtype.numpy:
        return stored.reshape(shape)
    elif stored.nbytes == count * dtype.numpy.itemsize:
        return np.ascontiguousarray(stored).reshape(-1).view(dtype.numpy).reshape(shape)
    raise BundleError(
        f"weight {key!r} holds {stored.size} elements of {stored.dtype}, not {dtype.value} of shape {shape}; "
        "write the network again"
    )


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969).
_ERF_NUMERATOR = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2)
_ERF_DENOMINATOR = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3)
_ERF_LAST = (3.20937758913846947e3, 2.84423683343917062e3)
_ERFC_NUMERATOR = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e0,
    6.61191906371416295e1,
    2.98635138197400131e2,
    8.81952221241769090e2,
    1.71204761263407058e3,
    2.05107837782607147e3,
    1.23033935479799725e3,
)
_ERFC_DENOMINATOR = (
    1.0,
    1.57449261107098347e1,
    1.17693950891312499e2,
    5.37181101862009858e2,
    1.62138957456669019e3,
    3.29079923573345963e3,
    4.36261909014324716e3,
    3.43936767414372164e3,
    1.23033935480374942e3,
)


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Its value at ``x``; the first coefficient is that of the highest power."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total


def erf(x: np.ndarray) -> np.ndarray:
    """Gauss error function of a float32 array, correct to float32 (Cody's approximations, evaluated in float64)."""
    wide = x.astype(np.float64)
    y = np.minimum(np.abs(wide), 4.0)  # from 4 on, erf is 1 in float32
    near = y <= 0.46875
    square = np.where(near, y * y, 0.0)
    central = wide * _polynomial((*_ERF_NUMERATOR, _ERF_LAST[0]), square)
    central /= _polynomial((*_ERF_DENOMINATOR, _ERF_LAST[1]), square)
    tail = np.exp(-y * y) * _polynomial(_ERFC_NUMERATOR, y) / _polynomial(_ERFC_DENOMINATOR, y)
    out: np.ndarray = np.where(near, central, np.copysign(1.0 - tail, wide)).astype(np.float32)
    return out
