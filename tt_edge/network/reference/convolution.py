"""CONVOLUTION and POOLING over any number of spatial dimensions, as products and reductions over windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tt_edge.errors import UnsupportedModelError
from tt_edge.network.reference.numerics import widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

Ints = tuple[int, ...]
Parameter = Callable[[np.ndarray | None], np.ndarray]
_MODES = {mode: mode for mode in ("EXPLICIT_ROUND_DOWN", "EXPLICIT_ROUND_UP", "SAME_UPPER", "SAME_LOWER")}


@dataclass(frozen=True, slots=True)
class Windows:
    """Where a filter of ``size`` lands on the spatial dimensions of a tensor (NvInfer.h, ``PaddingMode``)."""

    size: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    mode: str

    @classmethod
    def of(cls, layer: BoundLayer, size_attribute: str) -> Windows:
        size = layer.dims(size_attribute) or ()
        ones, zeros = (1,) * len(size), (0,) * len(size)
        both = layer.dims("padding_nd") or zeros
        return cls(
            size=size,
            stride=layer.dims("stride_nd") or ones,
            dilation=layer.dims("dilation_nd") or ones,
            before=layer.dims("pre_padding") or both,
            after=layer.dims("post_padding") or both,
            mode=layer.choose("padding_mode", _MODES, "EXPLICIT_ROUND_DOWN"),
        )

    def padding(self, spatial: Ints) -> list[tuple[int, int]]:
        """(before, after) of each spatial dimension, such that every window lies in the padded tensor."""
        padding = []
        for n, f, s, d, b, a in zip(
            spatial, self.size, self.stride, self.dilation, self.before, self.after, strict=True
        ):
            reach = 1 + d * (f - 1)
            if self.mode.startswith("SAME"):
                total = max((n - 1) // s * s + reach - n, 0)
                small, large = total // 2, total - total // 2
                padding.append((small, large) if self.mode == "SAME_UPPER" else (large, small))
            elif self.mode == "EXPLICIT_ROUND_UP":
                steps = -(-(n + b + a - reach) // s)
                padding.append((b, max(a, steps * s + reach - n - b)))
            else:
                padding.append((b, a))
        return padding

    def view(self, x: np.ndarray, fill: float) -> np.ndarray:
        """The windows of [N, C, ...] ``x``, padded with ``fill``, as [N, C, *output, *size]."""
        rank = len(self.size)
        x = np.pad(x, [(0, 0), (0, 0), *self.padding(x.shape[2:])], constant_values=fill)
        reach = tuple(1 + d * (f - 1) for f, d in zip(self.size, self.dilation, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, 2 + rank)))
        steps = [slice(None, None, s) for s in (*self.stride, *self.dilation)]
        return windows[(slice(None), slice(None), *steps)]


def _parameter(layer: BoundLayer, index: int, name: str, shape: Ints) -> Parameter | None:
    """Reads kernel or bias as float32, from the input ``index`` or the weight that attribute ``name`` names."""
    if layer.has_input(index):
        read = layer.reader(index)
        return lambda given: read(given)  # type: ignore[arg-type]
    key = layer.layer.attributes.get(name)
    if key is None:
        return None
    dtype = layer.input(0).dtype
    value = widening(dtype)(layer.weight(str(key), dtype, shape))
    return lambda _: value


@kernel("CONVOLUTION")
def convolution(layer: BoundLayer) -> Compute:
    """Correlation of x [N, C, ...] with a kernel [M, C / groups, *size], plus a bias [M] (``IConvolutionLayer``).

    Kernel and bias are inputs 1 and 2, or the attributes ``kernel`` and ``bias``, which name stored weights of x's
    type. Sums are in float32, rounded once.
    """
    windows, groups = Windows.of(layer, "kernel_size_nd"), layer.integer("num_groups", 1)
    maps, channels = int(layer.attribute("num_output_maps")), layer.input(0).shape[1]
    shape = (maps, channels // groups, *windows.size)
    read_kernel, read_bias = _parameter(layer, 1, "kernel", shape), _parameter(layer, 2, "bias", (maps,))
    if read_kernel is None:
        raise UnsupportedModelError(f"{layer} has no kernel weights; capture the network again")
    read, write, rank = widening(layer.input(0).dtype), layer.writer(), len(windows.size)

    def compute(x: np.ndarray, weight: np.ndarray | None = None, bias: np.ndarray | None = None) -> np.ndarray:
        view = windows.view(read(x), 0.0)
        batch, output = view.shape[0], view.shape[2 : 2 + rank]
        # columns [groups, C / groups * size, N * output], filters [groups, M / groups, C / groups * size]
        split = view.reshape(batch, groups, -1, *view.shape[2:])
        order = (1, 2, *range(3 + rank, 3 + 2 * rank), 0, *range(3, 3 + rank))
        columns = split.transpose(order).reshape(groups, -1, batch * int(np.prod(output)))
        filters = read_kernel(weight).reshape(groups, maps // groups, -1)
        out = np.matmul(filters, columns).reshape(maps, batch, *output)
        if read_bias is not None:
            out += read_bias(bias).reshape(-1, 1, *(1,) * rank)
        return write(out.swapaxes(0, 1))

    return compute


@kernel("POOLING")
def pooling(layer: BoundLayer) -> Compute:
    """MAX, AVERAGE or MAX_AVERAGE_BLEND over windows (NvInfer.h, ``IPoolingLayer``).

    Padding never is a maximum. It counts as zeros in an average unless ``average_count_excludes_padding``. The blend
    is ``(1 - blend_factor) * max + blend_factor * average``.
    """
    windows, kind = Windows.of(layer, "window_size_nd"), layer.choose("type", {t: t for t in _POOLINGS})
    excludes, blend = layer.flag("average_count_excludes_padding", True), layer.number("blend_factor", 0.0)
    read, write = widening(layer.input(0).dtype), layer.writer()
    axes = tuple(range(-len(windows.size), 0))

    def average(x: np.ndarray) -> np.ndarray:
        total = windows.view(x, 0.0).sum(axes)
        if not excludes:
            return np.asarray(total / np.float32(np.prod(windows.size)))
        return np.asarray(total / windows.view(np.ones((1, 1, *x.shape[2:]), np.float32), 0.0).sum(axes))

    def maximum(x: np.ndarray) -> np.ndarray:
        return np.asarray(windows.view(x, -np.inf).max(axes))

    def compute(x: np.ndarray) -> np.ndarray:
        wide = read(x)
        if kind == "MAX":
            return write(maximum(wide))
        if kind == "AVERAGE":
            return write(average(wide))
        return write((1 - np.float32(blend)) * maximum(wide) + np.float32(blend) * average(wide))

    return compute


_POOLINGS = ("MAX", "AVERAGE", "MAX_AVERAGE_BLEND")
