"""REDUCE, SOFTMAX, NORMALIZATION and CUMULATIVE. Float types reduce in float32 and round once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tt_edge.network.reference.numerics import widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

Reduction = Callable[[np.ndarray, tuple[int, ...], bool], np.ndarray]


def _lowest(dtype: np.dtype) -> float | int:
    return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _highest(dtype: np.dtype) -> float | int:
    return np.inf if dtype.kind == "f" else int(np.iinfo(dtype).max)


def _mean(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    """Average; of integers the truncated quotient, 0 over an empty volume (NaN for floats)."""
    total = x.sum(axes, keepdims=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    if x.dtype.kind == "f":
        quotient: np.ndarray = total / np.float32(count)
        return quotient
    truncated: np.ndarray = np.trunc(total / max(count, 1)).astype(x.dtype)
    return truncated


def _max(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    more = {} if x.size else {"initial": _lowest(x.dtype)}  # which CuPy does not take
    return x.max(axes, keepdims=keep, **more)  # type: ignore[no-any-return, call-overload]


def _min(x: np.ndarray, axes: tuple[int, ...], keep: bool) -> np.ndarray:
    more = {} if x.size else {"initial": _highest(x.dtype)}
    return x.min(axes, keepdims=keep, **more)  # type: ignore[no-any-return, call-overload]


_REDUCTIONS: dict[str, Reduction] = {
    "SUM": lambda x, axes, keep: x.sum(axes, x.dtype, keepdims=keep),
    "PROD": lambda x, axes, keep: x.prod(axes, x.dtype, keepdims=keep),
    "MAX": _max,
    "MIN": _min,
    "AVG": _mean,
}


@kernel("REDUCE")
def reduce(layer: BoundLayer) -> Compute:
    """``op`` over the bitmask ``axes``; with ``keep_dims`` they stay as unit dimensions (NvInfer.h, ``ReduceOperation``).

    Over an empty volume: SUM 0, PROD 1, MAX and MIN the type's lowest and highest value, AVG NaN.
    """
    operation, axes, keep = layer.choose("op", _REDUCTIONS), layer.axes(), layer.flag("keep_dims", False)
    dtype = layer.input(0).dtype
    if not dtype.is_floating:
        return lambda x: operation(x, axes, keep)
    read, write = widening(dtype), layer.writer()
    return lambda x: write(operation(read(x), axes, keep))


def _softmax(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Softmax of float32 ``x`` over ``axes``. A slice that is all -inf gives NaN, as the formula does."""
    out: np.ndarray = x - x.max(axes, keepdims=True)
    np.exp(out, out=out)
    np.divide(out, out.sum(axes, keepdims=True), out=out)
    return out


@kernel("SOFTMAX")
def softmax(layer: BoundLayer) -> Compute:
    """Softmax along the axes of the bitmask ``axes``, in float32."""
    axes, read, write = layer.axes(), widening(layer.input(0).dtype), layer.writer()
    return lambda x: write(_softmax(read(x), axes))


@kernel("NORMALIZATION")
def normalization(layer: BoundLayer) -> Compute:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the bitmask ``axes`` (``INormalizationLayer``).

    With ``num_groups`` G above 1, dimension 1 is split into G groups; each is normalized separately, over the axes too.
    Scale and bias broadcast to x; the [1, G, 1, ...] form of the first version (``is_v2`` off) applies per group.
    """
    axes, groups = layer.axes(), layer.integer("num_groups", 1)
    epsilon = np.float32(layer.number("epsilon", 1e-5))
    read, read_scale, read_bias, write = layer.reader(0), layer.reader(1), layer.reader(2), layer.writer()

    def normalize(x: np.ndarray, over: tuple[int, ...]) -> np.ndarray:
        centred = x - np.mean(x, over, dtype=np.float32, keepdims=True)
        variance = np.mean(np.square(centred), over, dtype=np.float32, keepdims=True)
        centred /= np.sqrt(variance + epsilon)
        return centred

    def per_channel(parameter: np.ndarray, channels: int) -> np.ndarray:
        return np.repeat(parameter, channels // groups, 1) if parameter.shape[1] == groups else parameter

    def compute(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
        wide, gain, offset = read(x), read_scale(scale), read_bias(bias)
        if groups == 1:
            out = normalize(wide, axes)
        else:
            split = wide.reshape(wide.shape[0], groups, -1, *wide.shape[2:])
            out = normalize(split, (2, *(axis + 1 for axis in axes if axis > 1))).reshape(wide.shape)
            gain, offset = per_channel(gain, wide.shape[1]), per_channel(offset, wide.shape[1])
        out *= gain
        out += offset
        return write(out)

    return compute


@kernel("CUMULATIVE")
def cumulative(layer: BoundLayer) -> Compute:
    """Prefix sums along the axis in input 1; ``exclusive`` excludes the element itself, ``reverse`` runs backward."""
    layer.choose("op", {"SUM": None}, "SUM")
    exclusive, reverse = layer.flag("exclusive", False), layer.flag("reverse", False)
    floating = layer.input(0).dtype.is_floating
    read, write = widening(layer.input(0).dtype), layer.writer()

    def compute(x: np.ndarray, axis_tensor: np.ndarray) -> np.ndarray:
        axis = int(axis_tensor.reshape(())) % x.ndim
        wide = read(x) if floating else x
        if reverse:
            wide = np.flip(wide, axis)
        total = np.cumsum(wide, axis, dtype=wide.dtype)
        if exclusive:
            total = np.roll(total, 1, axis)
            total[(slice(None),) * axis + (slice(0, 1),)] = 0
        if reverse:
            total = np.flip(total, axis)
        return write(total) if floating else total

    return compute
