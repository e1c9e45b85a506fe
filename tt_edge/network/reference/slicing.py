"""SLICE: strided windows of a tensor, within its bounds or with values defined by a mode beyond them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

Ints = Sequence[int]


def _clamp(index: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(np.clip(index, 0, size - 1))


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Mirror about the centres of the first and last element, repeatedly; a single element repeats."""
    period = max(2 * (size - 1), 1)
    folded = np.mod(index, period)
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(index)


_SAMPLED: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "WRAP": np.mod,
    "CLAMP": _clamp,
    "FILL": _clamp,
    "REFLECT": _reflect,
}


def _window(x: np.ndarray, start: Ints, size: Ints, stride: Ints) -> np.ndarray | None:
    """The window as a view of ``x``, ``None`` if it leaves the tensor. Stride 0 repeats the element at ``start``."""
    index = []
    for length, first, count, step in zip(x.shape, start, size, stride, strict=True):
        last = first + (count - 1) * step
        if count and not (0 <= first < length and 0 <= last < length):
            return None
        if step > 0:
            index.append(slice(first, first + count * step, step))
        elif step == 0:
            index.append(slice(first, first + min(count, 1)))
        else:
            stop = first + count * step
            index.append(slice(first, stop if stop >= 0 else None, step) if count else slice(0, 0))
    view = x[tuple(index)]
    return view if 0 not in stride else np.broadcast_to(view, tuple(size))


def _sample(x: np.ndarray, start: Ints, size: Ints, stride: Ints, mode: str, fill: np.ndarray | None) -> np.ndarray:
    """The window, in a mode that defines values beyond the bounds."""
    outside = np.zeros((), bool)
    for axis, (length, first, count, step) in enumerate(zip(x.shape, start, size, stride, strict=True)):
        index = first + step * np.arange(count)
        beyond = (index < 0) | (index >= length)
        outside = outside | beyond.reshape([-1 if d == axis else 1 for d in range(x.ndim)])
        if length == 0 and count:  # only FILL may read from an empty dimension
            x = np.zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)
        else:
            x = np.take(x, _SAMPLED[mode](index, max(length, 1)), axis)
    if mode != "FILL":
        return x
    value = np.zeros((), x.dtype) if fill is None else fill.reshape(()).astype(x.dtype)
    return np.where(outside, value, x)


def _whole(x: np.ndarray, axes: Ints, parameters: tuple[Ints, ...]) -> tuple[list[int], list[int], list[int]]:
    """Start, size and stride of every dimension, from those of the dimensions ``axes``; the others are taken whole."""
    full = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for whole, part in zip(full, parameters, strict=True):
        for axis, value in zip(axes, part, strict=True):
            whole[axis] = value
    return full


@kernel("SLICE")
def slice_(layer: BoundLayer) -> Compute:
    """``input 0[start + i * stride]`` for i below ``shape`` (NvInfer.h, ``ISliceLayer``).

    Inputs 1, 2, 3 and 5, where set, replace the attributes ``start``, ``shape``, ``stride`` and ``axes``. With axes,
    the three describe those dimensions only, and the others are taken whole. Beyond the bounds, mode STRICT_BOUNDS
    is an error, WRAP continues periodically, CLAMP repeats the edge, REFLECT mirrors about the edge element, and
    FILL gives the value of input 4 (0 if unset).
    """
    mode = layer.choose("mode", {m: m for m in ("STRICT_BOUNDS", *_SAMPLED)}, "STRICT_BOUNDS")

    def parameter(name: str, index: int) -> Any:
        """Its value if known now: from a constant input, or from the attribute if the input is unset."""
        if not layer.has_input(index):
            return layer.dims(name)
        known = layer.constant(index)
        return None if known is None else known.reshape(-1).tolist()

    statics = [parameter(name, index) for name, index in (("start", 1), ("shape", 2), ("stride", 3), ("axes", 5))]
    for name, index in (("start", 1), ("shape", 2), ("stride", 3)):
        if statics[index - 1] is None and not layer.has_input(index):
            raise UnsupportedModelError(f"{layer} has neither {name} nor input {index}; capture the network again")

    def compute(x: np.ndarray, *dynamic: np.ndarray | None) -> np.ndarray:
        given = (*dynamic, *(None,) * (5 - len(dynamic)))
        start, size, stride, axes = (
            value.reshape(-1).tolist() if known is None and value is not None else known
            for known, value in zip(statics, (*given[:3], given[4]), strict=True)
        )
        if axes:
            start, size, stride = _whole(x, axes, (start, size, stride))
        view = _window(x, start, size, stride)
        if view is not None:
            return view
        if mode == "STRICT_BOUNDS":
            raise InvalidInputError(
                f"{layer} reads outside its input of shape {x.shape} "
                f"(start {list(start)}, shape {list(size)}, stride {list(stride)}); "
                "check the shapes of the network's inputs"
            )
        return _sample(x, start, size, stride, mode, given[3])

    return compute
