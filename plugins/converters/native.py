"""TensorRT layers for the operators of ``plugins.ops.native``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorrt as trt
import torch

import tt_edge.plugins.ops.native  # noqa: F401  (defines the operators)
from tt_edge.plugins.converters.building import converter, named, scalar

_ops = torch.ops.tt_edge

#: More places than any sequence has.
_FAR = 1 << 30


def _aligned(network: Any, constant: Any, rank: int, name: str) -> Any:
    """``constant`` with leading ones up to ``rank`` (folded into the constant when the network is captured)."""
    shape = tuple(constant.shape)
    if len(shape) == rank:
        return constant
    layer = network.add_shuffle(constant)
    layer.reshape_dims = (1,) * (rank - len(shape)) + shape
    return named(layer, name)


@converter(_ops.rotary_from_table.default)
def rotary_from_table(
    network: Any, x: Any, cos: Any, sin: Any, position_ids: Any, interleaved: bool = False, *, name: str
) -> Any:
    """One ``IRotaryEmbeddingLayer``; partial rotary follows from the tables' width."""
    rotary_dim = 2 * cos.shape[1]
    layer = network.add_rotary_embedding(x, cos, sin, interleaved, 0 if rotary_dim == x.shape[3] else rotary_dim)
    layer.set_input(3, position_ids)
    return named(layer, name)


@converter(_ops.axis_rows.default)
def axis_rows(network: Any, table: Any, position_ids: Any, axes: Sequence[int], *, name: str) -> Any:
    """For each axis a gather of its positions and one of the table's rows; selects put the columns together."""
    result = None
    for axis in range(position_ids.shape[0]):
        index = network.add_constant((), trt.Weights(np.array(axis, np.int64)))
        positions = named(network.add_gather(position_ids, named(index, f"{name}_axis{axis}"), 0), f"{name}_ids{axis}")
        rows = named(network.add_gather(table, positions, 0), f"{name}_rows{axis}")  # [B, S, R]
        if result is None:
            result = rows
            continue
        own = np.array([[[a == axis for a in axes]]])
        mask = named(network.add_constant(own.shape, trt.Weights(own)), f"{name}_mask{axis}")
        result = named(network.add_select(mask, rows, result), f"{name}_upto{axis}")
    return result


@converter(_ops.rotary_from_rows.default)
def rotary_from_rows(network: Any, x: Any, cos: Any, sin: Any, interleaved: bool = False, *, name: str) -> Any:
    """One ``IRotaryEmbeddingLayer`` whose cosines and sines are those of the tokens."""
    rotary_dim = 2 * cos.shape[2]
    layer = network.add_rotary_embedding(x, cos, sin, interleaved, 0 if rotary_dim == x.shape[3] else rotary_dim)
    return named(layer, name)


@converter(_ops.kv_cache_update.default)
def kv_cache_update(network: Any, cache: Any, update: Any, write_indices: Any, *, name: str) -> Any:
    """One ``IKVCacheUpdateLayer`` in linear mode."""
    return named(network.add_kv_cache_update(cache, update, write_indices, trt.KVCacheMode.LINEAR), name)


@converter(_ops.kv_lengths.default)
def kv_lengths(network: Any, write_indices: Any, tokens: Any, *, name: str) -> Any:
    """Shape, slice and sum: three layers for the whole network."""
    length = _sequence_length(network, tokens, name)
    return named(network.add_elementwise(write_indices, length, trt.ElementWiseOperation.SUM), name)


def _sequence_length(network: Any, tokens: Any, name: str, dim: int = 1) -> Any:
    """The size of dimension ``dim`` as an int32 tensor ``[1]``."""
    sizes = named(network.add_shape(tokens), f"{name}_shape")
    length = named(network.add_slice(sizes, (dim,), (1,), (1,)), f"{name}_length")
    return named(network.add_cast(length, trt.int32), f"{name}_length_int32")


@converter(_ops.sliding_window_mask.default)
def sliding_window_mask(
    network: Any, write_indices: Any, tokens: Any, capacity: int, window: int, until: Any = None, *, name: str
) -> Any:
    """Comparisons of key positions ``[1, 1, 1, capacity]`` with query positions ``[B, 1, S, 1]``."""
    keys = np.arange(capacity, dtype=np.int32).reshape(1, 1, 1, capacity)
    key_at = named(network.add_constant(keys.shape, trt.Weights(keys.copy())), f"{name}_keys")
    offsets = _counted(network, _sequence_length(network, tokens, name), (1, 1, -1, 1), f"{name}_offsets")
    starts = network.add_shuffle(write_indices)
    starts.reshape_dims = (-1, 1, 1, 1)
    operation = trt.ElementWiseOperation
    query_at = named(
        network.add_elementwise(named(starts, f"{name}_starts"), offsets, operation.SUM),
        f"{name}_queries",
    )
    window_tensor = scalar(network, window, trt.int32, 4, f"{name}_window")
    oldest = named(network.add_elementwise(query_at, window_tensor, operation.SUB), f"{name}_oldest")
    if until is None:
        future = named(network.add_elementwise(key_at, query_at, operation.GREATER), f"{name}_future")
        seen = named(network.add_unary(future, trt.UnaryOperation.NOT), f"{name}_seen")
    else:
        seen = named(network.add_elementwise(key_at, until, operation.LESS), f"{name}_seen")
    recent = named(network.add_elementwise(key_at, oldest, operation.GREATER), f"{name}_recent")
    return named(network.add_elementwise(seen, recent, operation.AND), name)


def _attention(network: Any, query: Any, key: Any, value: Any, kind: Any, name: str) -> Any:
    layer = network.add_attention_v2(query, key, value, trt.AttentionNormalizationOp.SOFTMAX, kind)
    layer.name = name
    # Where no fused kernel fits (a head size, a GPU), TensorRT may use several rather than refuse the network.
    layer.decomposable = True
    return layer


@converter(_ops.causal_attention.default)
def causal_attention(network: Any, query: Any, key: Any, value: Any, lengths: Any, *, name: str) -> Any:
    """``IAttention`` with per-row lengths and its diagonal at the lower right."""
    layer = _attention(network, query, key, value, trt.CausalMaskKind.LOWER_RIGHT, name)
    layer.key_value_lengths = lengths
    return layer.get_output(0)


@converter(_ops.masked_attention.default)
def masked_attention(network: Any, query: Any, key: Any, value: Any, mask: Any, *, name: str) -> Any:
    """``IAttention`` with a mask."""
    layer = _attention(network, query, key, value, trt.CausalMaskKind.NONE, name)
    layer.mask = mask
    return layer.get_output(0)


@converter(_ops.full_attention.default)
def full_attention(network: Any, query: Any, key: Any, value: Any, *, name: str) -> Any:
    """``IAttention`` without a mask."""
    return _attention(network, query, key, value, trt.CausalMaskKind.NONE, name).get_output(0)


@converter(_ops.prefix_attention.default)
def prefix_attention(
    network: Any, query: Any, key: Any, value: Any, lengths: Any, bias: Any = None, *, name: str
) -> Any:
    """``IAttention`` with per-row lengths, and numbers added to the scores."""
    layer = _attention(network, query, key, value, trt.CausalMaskKind.NONE, name)
    if bias is not None:
        layer.mask = bias
    layer.key_value_lengths = lengths
    return layer.get_output(0)


@converter(_ops.prefix_mask.default)
def prefix_mask(network: Any, query: Any, key: Any, lengths: Any, window: int, ahead: int, *, name: str) -> Any:
    """Comparisons of key positions ``[1, 1, 1, T]`` with lengths ``[B, 1, 1, 1]`` and query positions ``[1, 1, S, 1]``."""
    operation = trt.ElementWiseOperation
    queries = _counted(network, _sequence_length(network, query, f"{name}_query", 2), (1, 1, -1, 1), f"{name}_queries")
    keys = _counted(network, _sequence_length(network, key, f"{name}_key", 2), (1, 1, 1, -1), f"{name}_keys")
    rows = network.add_shuffle(lengths)
    rows.reshape_dims = (-1, 1, 1, 1)
    used = named(network.add_elementwise(keys, named(rows, f"{name}_rows"), operation.LESS), f"{name}_used")

    def compared(offset: int, suffix: str, comparison: Any) -> Any:
        distance = scalar(network, offset, trt.int32, 4, f"{name}{suffix}_distance")
        edge = named(network.add_elementwise(queries, distance, operation.SUM), f"{name}{suffix}_edge")
        return named(network.add_elementwise(keys, edge, comparison), f"{name}{suffix}")

    # Unlimited: every key is later than one that stands so far before the query. It gives the mask its queries.
    seen = compared(-window if window else -_FAR, "_after", operation.GREATER)
    if window:
        until = compared(ahead + 1, "_before", operation.LESS)
        seen = named(network.add_elementwise(seen, until, operation.AND), f"{name}_near")
    return named(network.add_elementwise(used, seen, operation.AND), name)


@converter(_ops.relative_rows.default)
def relative_rows(
    network: Any, table: Any, tokens: Any, start: Any, end: Any, capacity: int, origin: int, *, name: str
) -> Any:
    """Differences of positions ``[B or 1, S, T]``, held within the table, and one gather of its rows."""
    operation = trt.ElementWiseOperation
    queries = _counted(network, _sequence_length(network, tokens, name), (1, -1, 1), f"{name}_queries")
    if start is not None:
        first = start if start.dtype == trt.int32 else named(network.add_cast(start, trt.int32), f"{name}_start")
        starts = network.add_shuffle(first)
        starts.reshape_dims = (-1, 1, 1)
        queries = named(
            network.add_elementwise(queries, named(starts, f"{name}_starts"), operation.SUM), f"{name}_places"
        )
    if capacity:
        numbers = np.arange(capacity, dtype=np.int32).reshape(1, 1, capacity)
        keys = named(network.add_constant(numbers.shape, trt.Weights(numbers)), f"{name}_keys")
    else:
        count = _sequence_length(network, tokens, f"{name}_key") if end is None else end
        if count.dtype != trt.int32:
            count = named(network.add_cast(count, trt.int32), f"{name}_end")
        keys = _counted(network, count, (1, 1, -1), f"{name}_keys")

    def bounded(tensor: Any, limit: int, how: Any, suffix: str) -> Any:
        return named(
            network.add_elementwise(tensor, scalar(network, limit, trt.int32, 3, f"{name}{suffix}_limit"), how),
            f"{name}{suffix}",
        )

    distance = named(network.add_elementwise(keys, queries, operation.SUB), f"{name}_distance")
    rows = bounded(distance, origin, operation.SUM, "_row")
    rows = bounded(bounded(rows, 0, operation.MAX, "_least"), table.shape[0] - 1, operation.MIN, "_most")
    layer = network.add_shuffle(named(network.add_gather(table, rows, 0), f"{name}_rows"))  # [B or 1, S, T, H]
    layer.first_transpose = trt.Permutation([0, 3, 1, 2])
    return named(layer, name)


def _counted(network: Any, count: Any, shape: tuple[int, ...], name: str) -> Any:
    """``0 … count - 1`` as int32, reshaped; ``count`` is int32 ``[1]``."""
    ramp = network.add_fill((1,), trt.FillOperation.LINSPACE, trt.int32)
    ramp.set_input(0, count)
    ramp.set_input(1, named(network.add_constant((), trt.Weights(np.zeros((), np.int32))), f"{name}_zero"))
    ramp.set_input(2, named(network.add_constant((1,), trt.Weights(np.ones(1, np.int32))), f"{name}_one"))
    layer = network.add_shuffle(named(ramp, f"{name}_ramp"))
    layer.reshape_dims = shape
    return named(layer, name)


@converter(_ops.capped_attention.default)
def capped_attention(network: Any, query: Any, key: Any, value: Any, mask: Any, softcap: float, *, name: str) -> Any:
    """Scores; bound, mask and softmax in float32; and the weighted sum. The heads that share K and V are a dimension.

    Shapes: query ``[B, Hkv, G, S, D]``, key and value ``[B, Hkv, 1, T, D]``, mask ``[B, 1, 1, S, T]``.
    """
    heads, kv_heads, dtype = query.shape[1], key.shape[1], query.dtype
    operation, matrix = trt.ElementWiseOperation, trt.MatrixOperation

    def reshaped(tensor: Any, dims: tuple[int, ...], suffix: str) -> Any:
        layer = network.add_shuffle(tensor)
        layer.reshape_dims = dims
        return named(layer, f"{name}{suffix}")

    def scaled(tensor: Any, factor: float, suffix: str) -> Any:
        constant = scalar(network, factor, trt.float32, 5, f"{name}{suffix}_factor")
        return named(network.add_elementwise(tensor, constant, operation.PROD), f"{name}{suffix}")

    q = reshaped(query, (0, kv_heads, heads // kv_heads, -1, query.shape[3]), "_query")
    k = reshaped(key, (0, kv_heads, 1, -1, key.shape[3]), "_key")
    v = reshaped(value, (0, kv_heads, 1, -1, value.shape[3]), "_value")
    axis = named(network.add_constant((1,), trt.Weights(np.array([2], np.int64))), f"{name}_axis")
    seen = named(network.add_unsqueeze(mask, axis), f"{name}_seen")

    scores = named(network.add_matrix_multiply(q, matrix.NONE, k, matrix.TRANSPOSE), f"{name}_scores")
    wide = named(network.add_cast(scores, trt.float32), f"{name}_float32")
    bounded = network.add_activation(scaled(wide, 1 / softcap, "_inner"), trt.ActivationType.TANH)
    capped = scaled(named(bounded, f"{name}_tanh"), softcap, "_capped")
    never = scalar(network, -np.inf, trt.float32, 5, f"{name}_never")
    softmax = network.add_softmax(named(network.add_select(seen, capped, never), f"{name}_masked"))
    softmax.axes = 1 << 4
    weights = named(network.add_cast(named(softmax, f"{name}_softmax"), dtype), f"{name}_weights")
    out = named(network.add_matrix_multiply(weights, matrix.NONE, v, matrix.NONE), f"{name}_sum")
    return reshaped(out, (0, heads, -1, value.shape[3]), "")


@converter(_ops.rms_normalize.default)
def rms_normalize(network: Any, x: Any, eps: float, *, name: str) -> Any:
    """Square, mean, add, root, divide: TensorRT has no RMS normalisation layer; its compiler fuses these."""
    operation, rank = trt.ElementWiseOperation, len(x.shape)
    square = named(network.add_elementwise(x, x, operation.PROD), f"{name}_square")
    mean = named(network.add_reduce(square, trt.ReduceOperation.AVG, 1 << (rank - 1), True), f"{name}_mean")
    epsilon = scalar(network, eps, x.dtype, rank, f"{name}_eps")
    total = named(network.add_elementwise(mean, epsilon, operation.SUM), f"{name}_total")
    root = named(network.add_unary(total, trt.UnaryOperation.SQRT), f"{name}_root")
    return named(network.add_elementwise(x, root, operation.DIV), name)


@converter(_ops.linear.default)
def linear(network: Any, x: Any, weight: Any, bias: Any = None, *, name: str) -> Any:
    """One matrix multiply by the transposed weight, and one sum for the bias."""
    rank = len(x.shape)
    matrix = _aligned(network, weight, rank, f"{name}_weight_aligned")
    none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    out = named(network.add_matrix_multiply(x, none, matrix, transpose), name)
    if bias is None:
        return out
    offset = _aligned(network, bias, rank, f"{name}_bias_aligned")
    return named(network.add_elementwise(out, offset, trt.ElementWiseOperation.SUM), f"{name}_bias")


@converter(_ops.gather_last_token.default)
def gather_last_token(network: Any, x: Any, last_token_indices: Any, *, name: str) -> Any:
    """A gather with one batch dimension. TensorRT's index has the data's rank less one, so ``[B]`` suffices."""
    layer = network.add_gather_v2(x, last_token_indices, trt.GatherMode.DEFAULT)
    layer.axis = 1
    layer.num_elementwise_dims = 1
    return named(layer, name)


@converter(_ops.top_logits.default)
def top_logits(network: Any, logits: Any, count: int, *, name: str) -> list[Any]:
    """One ``ITopKLayer``; and maximum, difference, exponential, sum and logarithm, which TensorRT's compiler fuses."""
    operation, axis = trt.ElementWiseOperation, 1 << 1
    layer = network.add_topk(logits, trt.TopKOperation.MAX, count, axis)
    layer.name = name
    peak = named(network.add_reduce(logits, trt.ReduceOperation.MAX, axis, True), f"{name}_peak")
    below = named(network.add_elementwise(logits, peak, operation.SUB), f"{name}_below")
    weights = named(network.add_unary(below, trt.UnaryOperation.EXP), f"{name}_weights")
    total = named(network.add_reduce(weights, trt.ReduceOperation.SUM, axis, True), f"{name}_total")
    logarithm = named(network.add_unary(total, trt.UnaryOperation.LOG), f"{name}_log")
    log_sum = named(network.add_elementwise(logarithm, peak, operation.SUM), f"{name}_log_sum")
    row = network.add_shuffle(log_sum)
    row.reshape_dims = (-1,)
    return [layer.get_output(0), layer.get_output(1), named(row, f"{name}_log_sum_exp")]


@converter(_ops.shuffle.default)
def shuffle(
    network: Any, x: Any, first: Sequence[int], dims: Sequence[int], second: Sequence[int], *, name: str
) -> Any:
    """One ``IShuffleLayer``."""
    layer = network.add_shuffle(x)
    layer.first_transpose = trt.Permutation(list(first))
    if any(dims) or len(dims) != len(first):  # only zeros copy every size, unless a dimension is dropped
        layer.reshape_dims = tuple(dims)
    layer.second_transpose = trt.Permutation(list(second))
    return named(layer, name)
