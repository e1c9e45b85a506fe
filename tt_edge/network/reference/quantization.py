"""QUANTIZE, DEQUANTIZE and DYNAMIC_QUANTIZE: symmetric quantization per tensor, per channel or per block."""

from __future__ import annotations

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import UnsupportedModelError
from tt_edge.network.reference.numerics import Converter, widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel
from tt_edge.number_formats import NVFP4_BLOCK, RANGES


def _saturate(scaled: np.ndarray, dtype: DType) -> np.ndarray:
    """Float32 ``scaled`` rounded to nearest even and clamped to ``dtype``. Overwrites its argument."""
    if not dtype.is_floating:
        np.rint(scaled, out=scaled)
    np.clip(scaled, *RANGES[dtype], out=scaled)
    return scaled.astype(dtype.numpy)


def fake_quantizer(dtype: DType, scale: np.ndarray) -> Converter:
    """A function that quantizes float32 arrays to ``dtype`` with one ``scale`` and dequantizes them again."""
    factor = scale.reshape(()).astype(np.float32)
    return lambda x: _saturate(np.asarray(x / factor), dtype).astype(np.float32) * factor


def _blocks(x: np.ndarray, scale: np.ndarray, axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of ``x`` and ``scale`` that broadcast each scale to its elements.

    One scale: per tensor. One dimension: per channel of ``axis``. As many dimensions as ``x``: blocked, with each
    dimension n of x split into as many equal runs as the scale has entries in that dimension.
    """
    if scale.size == 1:
        return x.shape, (1,) * x.ndim
    if scale.ndim == 1 and x.ndim > 1:
        channels = [1] * x.ndim
        channels[axis] = scale.size
        return x.shape, tuple(channels)
    split = [size for n, runs in zip(x.shape, scale.shape, strict=True) for size in (runs, n // runs)]
    return tuple(split), tuple(size for runs in scale.shape for size in (runs, 1))


@kernel("QUANTIZE")
def quantize(layer: BoundLayer) -> Compute:
    """``clamp(round(x / scale))`` to INT8, INT4, FP8 or FP4, ties to even (NvInfer.h, ``IQuantizeLayer``).

    Inputs: x, scale, and optionally a zero point, which TensorRT requires to be zero.
    """
    axis, target = layer.integer("axis", -1), layer.dtype
    if target not in RANGES:
        raise UnsupportedModelError(f"{layer} quantizes to {target.value}; quantize to {', '.join(RANGES)}")
    read, read_scale = widening(layer.input(0).dtype), layer.reader(1)

    def compute(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
        factor = read_scale(scale)
        split, runs = _blocks(x, factor, axis)
        return _saturate(read(x).reshape(split) / factor.reshape(runs), target).reshape(x.shape)

    return compute


@kernel("DEQUANTIZE")
def dequantize(layer: BoundLayer) -> Compute:
    """``x * scale`` in float32, rounded once to the output's type (NvInfer.h, ``IDequantizeLayer``).

    Inputs: x of type INT8, INT4, FP8 or FP4, scale, and optionally a zero point, which TensorRT requires to be zero.
    A weight [N, K] with a scale [N, K / g] is blocked in groups of g along K.
    """
    axis = layer.integer("axis", -1)
    read, read_scale, write = widening(layer.input(0).dtype), layer.reader(1), layer.writer()

    def compute(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
        factor = read_scale(scale)
        split, runs = _blocks(x, factor, axis)
        wide = read(x).reshape(split)
        wide *= factor.reshape(runs)
        return write(wide).reshape(x.shape)

    return compute


def _block_shape(layer: BoundLayer) -> tuple[int, ...]:
    """Block size along each dimension of input 0, from ``block_shape`` or the older ``axis`` and ``block_size``."""
    rank, blocks = len(layer.input(0).shape), layer.dims("block_shape")
    if blocks:
        return blocks
    sizes = [1] * rank
    sizes[layer.integer("axis", rank - 1)] = layer.integer("block_size", NVFP4_BLOCK)
    return tuple(sizes)


@kernel("DYNAMIC_QUANTIZE")
def dynamic_quantize(layer: BoundLayer) -> Compute:
    """Quantize with scales measured per block; outputs the data and the scales (``IDynamicQuantizeLayer``).

    A block's scale is its largest magnitude over the largest value of the data type (6 for FP4, 448 for FP8). With
    FP8 scales (NVFP4), input 1 is the scalar scale of the scales, and the data is divided by the stored scale's
    dequantized value, so that dequantizing twice returns the nearest representable values. A block of zeros has scale
    zero and stays zero.
    """
    target, scale_type = layer.outputs[0].dtype, layer.outputs[1].dtype
    if target not in RANGES or scale_type not in (DType.FP8, DType.FLOAT32):
        raise UnsupportedModelError(
            f"{layer} quantizes to {target.value} with {scale_type.value} scales, which the reference evaluator lacks; "
            "use float4_e2m1fn data with float8_e4m3fn scales, or float32 scales"
        )
    block, read = _block_shape(layer), widening(layer.input(0).dtype)
    largest = np.float32(RANGES[target][1])

    def compute(x: np.ndarray, double_scale: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        sizes = [n if b == -1 else b for n, b in zip(x.shape, block, strict=True)]
        split = [size for n, b in zip(x.shape, sizes, strict=True) for size in (n // b, b)]
        wide = read(x).reshape(split)
        scale = np.max(np.abs(wide), axis=tuple(range(1, len(split), 2)), keepdims=True) / largest
        stored = scale
        if scale_type is DType.FP8:
            outer = np.float32(1) if double_scale is None else double_scale.reshape(()).astype(np.float32)
            stored = _saturate(scale / outer, DType.FP8)
            scale = stored.astype(np.float32) * outer
        scaled = np.divide(wide, scale, out=np.zeros_like(wide), where=scale != 0)
        return _saturate(scaled, target).reshape(x.shape), stored.reshape(split[::2])

    return compute
