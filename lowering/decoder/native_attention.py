"""Attention over an in-place KV cache, in the form of TensorRT's own layers."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    calls,
    emit,
    output_values,
    placeholder,
    set_outputs,
    shape,
    value,
)

ops = torch.ops.tt_edge


class NativeAttention(LoweringPass):
    """Give every attention its KV cache and the form of ``IKVCacheUpdateLayer`` and ``IAttention``.

    Before::

        1. y = tt_edge.attention(q, k, v, scale)

    After::

        1. lengths = tt_edge.kv_lengths(write_indices, input_ids)       once for all layers
        2. K = tt_edge.kv_cache_update(past_key_0, k, write_indices)    also an output, present_key_0
        3. V = tt_edge.kv_cache_update(past_value_0, v, write_indices)  also an output, present_value_0
        4. y = tt_edge.causal_attention(aten.mul(q, scale), K, V, lengths)

    With ``lengths = write_indices + S`` and the diagonal at the lower right, query ``i`` of a row sees
    ``j <= write_indices + i``: exact for whole, chunked and right-padded prefill and for decode. What padding writes
    behind a row's end is overwritten by the next call before anything sees it.

    A sliding window shorter than the cache becomes a mask, computed in the graph and shared by the layers that have
    that window. A softcap has no place in ``IAttention``: such an attention is ``tt_edge.capped_attention``, also with a
    mask, which becomes plain layers. Sinks are refused.
    """

    name = "native_attention"

    def expected(self, context: LoweringContext) -> int | None:
        return context.decoder_layers

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        attentions = list(calls(graph, ops.attention.default))
        if not attentions:
            return 0
        for node in attentions:
            _check(node)
        tokens = placeholder(graph, "input_ids")
        write_indices = add_placeholder(graph, "write_indices", shape(tokens)[:1], torch.int32)
        visibility = _Visibility(tokens, write_indices, context.config.max_seq_len)
        presents: list[Node] = []
        for index, node in enumerate(attentions):
            arguments: Any = node.args
            query, key, val, scale = arguments[:4]
            caches = []
            for kind, update in (("key", key), ("value", val)):
                caches.append(_cache(graph, f"past_{kind}_{index}", update, context))
                context.kv_cache.append((f"past_{kind}_{index}", f"present_{kind}_{index}"))
            with graph.inserting_before(node):
                keys, values = (
                    emit(graph, ops.kv_cache_update.default, cache, update, write_indices, origin=node)
                    for cache, update in zip(caches, (key, val), strict=True)
                )
                scaled = emit(graph, aten.mul.Tensor, query, scale, like=query, origin=node)
                attended = visibility.attend(node, scaled, keys, values)
            presents += [keys, values]
            node.replace_all_uses_with(attended)
            graph.erase_node(node)
        set_outputs(graph, [*output_values(graph), *presents])
        return len(attentions)


class _Visibility:
    """What queries may see: lengths for plain causal attention, one mask for each distinct sliding window."""

    def __init__(self, tokens: Node, write_indices: Node, capacity: int) -> None:
        self.tokens, self.write_indices, self.capacity = tokens, write_indices, capacity
        self.lengths: Node | None = None
        self.masks: dict[int, Node] = {}

    def attend(self, node: Node, query: Node, keys: Node, values: Node) -> Node:
        graph, window, softcap = node.graph, _argument(node, 5, 0), _argument(node, 6, 0.0)
        if softcap:
            mask = self.mask(graph, window or self.capacity)
            return emit(graph, ops.capped_attention.default, query, keys, values, mask, softcap, like=node)
        if 0 < window < self.capacity:
            mask = self.mask(graph, window)
            return emit(graph, ops.masked_attention.default, query, keys, values, mask, like=node)
        if self.lengths is None:
            self.lengths = emit(graph, ops.kv_lengths.default, self.write_indices, self.tokens)
        return emit(graph, ops.causal_attention.default, query, keys, values, self.lengths, like=node)

    def mask(self, graph: torch.fx.Graph, window: int) -> Node:
        """What a query sees of the cache; a window of its capacity or more leaves plain causality."""
        window = min(window, self.capacity)
        if window not in self.masks:
            mask = ops.sliding_window_mask.default
            self.masks[window] = emit(graph, mask, self.write_indices, self.tokens, self.capacity, window)
        return self.masks[window]


def _cache(graph: torch.fx.Graph, name: str, update: Any, context: LoweringContext) -> Node:
    batch, heads, _, head_dim = shape(update)
    return add_placeholder(graph, name, (batch, heads, context.config.max_seq_len, head_dim), value(update).dtype)


def _argument(node: Node, index: int, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else default


def _check(node: Node) -> None:
    if not _argument(node, 4, True):
        raise UnsupportedModelError("the model has non-causal attention; the native backend compiles causal decoders")
    if _argument(node, 7, None) is not None:
        raise UnsupportedModelError("the model has attention sinks, which TensorRT's IAttention cannot express")
