"""Insert an in-place KV cache, in the form of TensorRT's own layers."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import AttentionCall
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    emit,
    output_values,
    placeholder,
    replace,
    set_outputs,
    shape,
    value,
)
from tt_edge.lowering.decoder.blocks import in_blocks, visible_until
from tt_edge.lowering.decoder.causal_bias import CausalBias, check_bias

ops = torch.ops.tt_edge


class InsertKVCache(LoweringPass):
    """Give every attention its KV cache and the form of ``IKVCacheUpdateLayer`` and ``IAttention``.

    Before::

        1. y = tt_edge.attention(q, k, v, scale)

    After::

        1. lengths = tt_edge.kv_lengths(write_indices, input_ids)       once for all layers
        2. K = tt_edge.kv_cache_update(past_key_0, k, write_indices)    also an output, present_key_0
        3. V = tt_edge.kv_cache_update(past_value_0, v, write_indices)  also an output, present_value_0
        4. y = tt_edge.causal_attention(aten.mul(q, scale), K, V, lengths)

    Layers that attend to the keys and values of an earlier layer (the last ones of Gemma 3n, E2B and E4B) have no cache of their
    own: step 4 takes the earlier layer's ``K`` and ``V``. So caches are numbered by themselves, not by layer.

    With ``lengths = write_indices + S`` and the diagonal at the lower right, query ``i`` of a batch slot sees
    ``j <= write_indices + i``: exact for whole, chunked and right-padded prefill and for decode. What padding writes
    after the valid tokens is overwritten by the next call before any query sees it.

    T5's bias becomes numbers that are added to the scores (``CausalBias``), and the attention ``tt_edge.masked_attention``.
    Where tokens see each other in both directions, every attention has a mask: ``visible_until`` says up to which place.
    A sliding window shorter than the cache becomes a mask, computed in the graph and shared by the layers with that window.
    ``IAttention`` has no softcap: such an attention becomes ``tt_edge.capped_attention``, also with a mask, which is
    converted to plain layers. Sinks are refused.
    """

    def expected(self, context: LoweringContext) -> Expectation | None:
        return Expectation.one_per_decoder_layer(context)

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        attentions = AttentionCall.all_in(graph)
        if not attentions:
            return 0
        for call in attentions:
            _check(call)
        tokens = placeholder(graph, "input_ids")
        write_indices = add_placeholder(graph, "write_indices", shape(tokens)[:1], torch.int32)
        capacity = context.config.limits.max_seq_len
        visibility = _Visibility(tokens, write_indices, visible_until(graph, tokens, context), context)
        biases = CausalBias(module, tokens, write_indices, None, capacity)
        cached: dict[tuple[Node, Node], tuple[Node, Node]] = {}
        for call in attentions:
            if call.stored not in cached:
                cached[call.stored] = _updated(graph, call, len(cached), write_indices, context)
            keys, values = cached[call.stored]
            with graph.inserting_before(call.node):
                scaled = emit(graph, aten.mul.Tensor, call.query, call.scale, like=call.query, origin=call.node)
                if call.bias is not None:
                    mask = biases.mask(call.bias)
                    attended = emit(graph, ops.masked_attention.default, scaled, keys, values, mask, like=call.node)
                else:
                    attended = visibility.attend(call, scaled, keys, values)
            replace(call.node, attended)
        set_outputs(graph, [*output_values(graph), *itertools.chain(*cached.values())])
        return len(attentions)


def _updated(
    graph: torch.fx.Graph, call: AttentionCall, number: int, write_indices: Node, context: LoweringContext
) -> tuple[Node, Node]:
    """All keys and values that ``call`` attends to: the caches with this ``number``, new inputs, after their update."""
    caches = [
        cache_input(graph, f"past_{kind}_{number}", update, context)
        for kind, update in zip(("key", "value"), call.stored, strict=True)
    ]
    with graph.inserting_before(call.node):
        keys, values = (
            emit(graph, ops.kv_cache_update.default, cache, update, write_indices, origin=call.node)
            for cache, update in zip(caches, call.stored, strict=True)
        )
    return keys, values


class _Visibility:
    """The visibility inputs: lengths for plain causal attention, and one mask for each distinct sliding window."""

    def __init__(self, tokens: Node, write_indices: Node, until: Node | None, context: LoweringContext) -> None:
        self.tokens, self.write_indices, self.until, self.context = tokens, write_indices, until, context
        self.capacity = context.config.limits.max_seq_len
        self.lengths: Node | None = None
        self.masks: dict[tuple[int, Node | None], Node] = {}

    def attend(self, call: AttentionCall, query: Node, keys: Node, values: Node) -> Node:
        graph, window = call.node.graph, call.window_within(self.capacity)
        until = in_blocks(call, self.until, self.context)
        if call.softcap is not None:
            mask = self.mask(graph, window or self.capacity, until)
            return emit(graph, ops.capped_attention.default, query, keys, values, mask, call.softcap, like=call.node)
        if window is not None or until is not None:
            mask = self.mask(graph, window or self.capacity, until)
            return emit(graph, ops.masked_attention.default, query, keys, values, mask, like=call.node)
        if self.lengths is None:
            self.lengths = emit(graph, ops.kv_lengths.default, self.write_indices, self.tokens)
        return emit(graph, ops.causal_attention.default, query, keys, values, self.lengths, like=call.node)

    def mask(self, graph: torch.fx.Graph, window: int, until: Node | None) -> Node:
        """The mask of the keys that each query sees; a window of the cache's capacity means plain causal attention."""
        key = window, until
        if key not in self.masks:
            mask = ops.sliding_window_mask.default
            arguments = (self.write_indices, self.tokens, self.capacity, window)
            self.masks[key] = emit(graph, mask, *arguments, *([] if until is None else [until]))
        return self.masks[key]


def cache_input(graph: torch.fx.Graph, name: str, update: Any, context: LoweringContext) -> Node:
    """A new input ``past_…`` for the cache of ``update`` ``[B, H, S, D]``, whose output is ``present_…``."""
    batch, heads, _, head_dim = shape(update)
    context.kv_cache.append((name, f"present_{name.removeprefix('past_')}"))
    return add_placeholder(
        graph, name, (batch, heads, context.config.limits.max_seq_len, head_dim), value(update).dtype
    )


def _check(call: AttentionCall) -> None:
    if not call.causal:
        raise UnsupportedModelError("the model has non-causal attention; the native backend compiles causal decoders")
    if call.sinks is not None:
        raise UnsupportedModelError("the model has attention sinks, which TensorRT's IAttention cannot express")
    check_bias(call)
