"""TensorRT layers for the operators of ``plugins.ops.sdpa``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt as trt
import torch

import tt_edge.plugins.ops.sdpa  # noqa: F401  (defines the operators)
from tt_edge.plugins.converters.building import converter, named, scalar

_ops = torch.ops.tt_edge


def _ints(network: Any, values: list[int], name: str) -> Any:
    return named(network.add_constant((len(values),), trt.Weights(np.array(values, np.int64))), name)


def _joined(network: Any, parts: list[Any], axis: int, name: str) -> Any:
    layer = network.add_concatenation(parts)
    layer.axis = axis
    return named(layer, name)


def _difference(network: Any, a: Any, b: Any, name: str) -> Any:
    return named(network.add_elementwise(a, b, trt.ElementWiseOperation.SUB), name)


def _tokens(network: Any, cache: Any, first: Any, count: Any, name: str) -> Any:
    """``cache[:, :, first : first + count]``; ``first`` is 0 when ``None``, both are int64 ``[1]``."""
    _, heads, _, dim = cache.shape
    sizes = named(network.add_shape(cache), f"{name}_shape")
    rows = named(network.add_slice(sizes, (0,), (1,), (1,)), f"{name}_batch")
    count = _joined(network, [rows, _ints(network, [heads], f"{name}_heads"), count, _ints(network, [dim], f"{name}_dim")],
                    0, f"{name}_size")  # fmt: skip
    layer = network.add_slice(cache, (0, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1))
    if first is not None:
        zero = _ints(network, [0, 0], f"{name}_zeros")
        layer.set_input(1, _joined(network, [zero, first, _ints(network, [0], f"{name}_zero")], 0, f"{name}_start"))
    layer.set_input(2, count)
    return named(layer, name)


@converter(_ops.static_cache_update.default)
def static_cache_update(network: Any, cache: Any, update: Any, start: Any, end: Any, *, name: str) -> Any:
    """Two slices and a concatenation."""
    rest = _difference(network, _ints(network, [cache.shape[2]], f"{name}_capacity"), end, f"{name}_rest")
    before = _tokens(network, cache, None, start, f"{name}_before")
    after = _tokens(network, cache, end, rest, f"{name}_after")
    return _joined(network, [before, update, after], 2, name)


@converter(_ops.cache_prefix.default)
def cache_prefix(network: Any, cache: Any, end: Any, *, name: str) -> Any:
    """One slice."""
    return _tokens(network, cache, None, end, name)


@converter(_ops.append_to_prefix.default)
def append_to_prefix(network: Any, cache: Any, update: Any, start: Any, *, name: str) -> Any:
    """A slice and a concatenation."""
    return _joined(network, [_tokens(network, cache, None, start, f"{name}_prefix"), update], 2, name)


def _range(network: Any, length: Any, shape: tuple[int, ...], name: str) -> Any:
    """``0 … length - 1`` as int64, reshaped."""
    ramp = network.add_fill((1,), trt.FillOperation.LINSPACE, trt.int64)
    ramp.set_input(0, length)
    ramp.set_input(1, named(network.add_constant((), trt.Weights(np.zeros((), np.int64))), f"{name}_zero"))
    ramp.set_input(2, _ints(network, [1], f"{name}_one"))
    layer = network.add_shuffle(named(ramp, f"{name}_ramp"))
    layer.reshape_dims = shape
    return named(layer, name)


@converter(_ops.causal_mask.default)
def causal_mask(
    network: Any, tokens: Any, start: Any, end: Any, window: int = 0, until: Any = None, *, name: str
) -> Any:
    """Comparisons of key positions ``[1, 1, 1, T]`` with query positions ``[1, 1, S, 1]``."""
    operation = trt.ElementWiseOperation
    sizes = named(network.add_shape(tokens), f"{name}_shape")
    width = named(network.add_slice(sizes, (1,), (1,), (1,)), f"{name}_width")
    query_at = _range(network, width, (1, 1, -1, 1), f"{name}_queries")
    key_at = _range(network, width if end is None else end, (1, 1, 1, -1), f"{name}_keys")
    if start is not None:
        first = network.add_shuffle(start)
        first.reshape_dims = (1, 1, 1, 1)
        offset = named(first, f"{name}_start")
        query_at = named(network.add_elementwise(query_at, offset, operation.SUM), f"{name}_at")
    seen_name = name if window <= 0 else f"{name}_seen"
    if until is None:
        future = named(network.add_elementwise(key_at, query_at, operation.GREATER), f"{name}_future")
        seen = named(network.add_unary(future, trt.UnaryOperation.NOT), seen_name)
    else:
        limit = named(network.add_cast(until, trt.int64), f"{name}_until")
        seen = named(network.add_elementwise(key_at, limit, operation.LESS), seen_name)
    if window <= 0:
        return seen
    oldest = _difference(network, query_at, scalar(network, window, trt.int64, 4, f"{name}_window"), f"{name}_oldest")
    recent = named(network.add_elementwise(key_at, oldest, operation.GREATER), f"{name}_recent")
    return named(network.add_elementwise(seen, recent, operation.AND), name)
