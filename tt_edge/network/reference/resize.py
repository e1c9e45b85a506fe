"""RESIZE: nearest, linear and cubic interpolation, one dimension after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tt_edge.errors import UnsupportedModelError
from tt_edge.network.reference.numerics import widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

#: From the positions of ``length`` output elements to coordinates in an input of ``origin`` elements.
Coordinates = Callable[[np.ndarray, int, int], np.ndarray]
#: From input coordinates and the input's length to indices and weights [output, taps].
Taps = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

_HALF = np.float32(0.5)

_COORDINATES: dict[str, Coordinates] = {
    "ALIGN_CORNERS": lambda x, origin, length: x * np.float32((origin - 1) / max(length - 1, 1)),
    "ASYMMETRIC": lambda x, origin, length: x * np.float32(origin / length),
    "HALF_PIXEL": lambda x, origin, length: (x + _HALF) * np.float32(origin / length) - _HALF,
}

_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "HALF_UP": lambda x: np.floor(x + _HALF),
    "HALF_DOWN": lambda x: np.ceil(x - _HALF),
    "FLOOR": np.floor,
    "CEIL": np.ceil,
}


def _linear(x: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.clip(x, 0, length - 1)
    left = np.floor(x).astype(np.int64)
    share = x - left
    return np.stack([left, np.minimum(left + 1, length - 1)], -1), np.stack([1 - share, share], -1)


def _cubic(coefficient: float, exclude_outside: bool) -> Taps:
    """The four-tap kernel of ``IResizeLayer::setCubicCoeff``."""
    a = np.float32(coefficient)

    def taps(x: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        index = np.floor(x).astype(np.int64)[:, None] + np.arange(-1, 3)
        t = np.abs(x[:, None] - index).astype(np.float32)
        near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        weight = np.where(t <= 1, near, np.where(t < 2, far, np.float32(0)))
        if exclude_outside:
            weight = np.where((index < 0) | (index >= length), np.float32(0), weight)
            weight = weight / weight.sum(-1, keepdims=True)
        return np.clip(index, 0, length - 1), weight

    return taps


@kernel("RESIZE")
def resize(layer: BoundLayer) -> Compute:
    """Resample every dimension whose size changes (NvInfer.h, ``IResizeLayer``).

    The output's size is input 1, the attribute ``shape``, or ``floor(size * scales)``. ``coordinate_transformation``
    maps output to input coordinates, and with ``selector_for_single_pixel`` UPPER an output of one element takes the
    first. Coordinates outside the input read its edge.
    """
    transform = layer.choose("coordinate_transformation", _COORDINATES, "ASYMMETRIC")
    nearest = layer.choose("nearest_rounding", _ROUNDINGS, "FLOOR")
    upper = layer.choose("selector_for_single_pixel", {"FORMULA": False, "UPPER": True}, "FORMULA")
    cubic = _cubic(layer.number("cubic_coeff", -0.75), layer.flag("exclude_outside", False))
    interpolate = layer.choose("resize_mode", {"NEAREST": None, "LINEAR": _linear, "CUBIC": cubic}, "NEAREST")
    shape, scales = layer.dims("shape"), layer.layer.attributes.get("scales")
    if not (shape or scales or layer.has_input(1)):
        raise UnsupportedModelError(f"{layer} has neither shape, scales nor input 1; capture the network again")
    read, write = widening(layer.input(0).dtype), layer.writer()

    def output_shape(x: np.ndarray, dynamic: np.ndarray | None) -> list[int]:
        if dynamic is not None:
            return [int(n) for n in dynamic]
        if isinstance(scales, list) and scales:
            return [int(np.floor(n * np.float32(s))) for n, s in zip(x.shape, scales, strict=True)]
        return list(shape or ())

    def compute(x: np.ndarray, dynamic: np.ndarray | None = None) -> np.ndarray:
        target = output_shape(x, dynamic)
        wide = x if interpolate is None else read(x)
        for axis, (origin, length) in enumerate(zip(x.shape, target, strict=True)):
            if origin == length:
                continue
            at = transform(np.arange(length, dtype=np.float32), origin, length)
            if upper and length == 1:
                at = np.zeros(1, np.float32)
            if interpolate is None:
                wide = np.take(wide, np.clip(nearest(at).astype(np.int64), 0, origin - 1), axis)
                continue
            index, weight = interpolate(at, origin)
            trailing = (1,) * (wide.ndim - axis - 1)
            taps = [
                np.take(wide, index[:, tap], axis) * weight[:, tap].reshape(-1, *trailing).astype(np.float32)
                for tap in range(index.shape[1])
            ]
            wide = np.add.reduce(taps)
        return wide if interpolate is None else write(wide)

    return compute
