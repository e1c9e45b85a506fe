"""Give attention to an answer and its source, in one softmax, its KV cache."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

import tt_edge.plugins.ops.native  # noqa: F401  (defines operators)
from tt_edge.contract import CROSS_LENGTHS
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    calls,
    emit,
    output_values,
    placeholder,
    replace,
    set_outputs,
    shape,
)
from tt_edge.lowering.decoder.insert_kv_cache import cache_input

ops = torch.ops.tt_edge


class InsertMergedCache(LoweringPass):
    """The cache of a decoder whose attention sees the answer so far and the source in one softmax (T5Gemma 2).

    Before::

        1. y = tt_edge.merged_attention(q, k, v, cross_key_0, cross_value_0, scale, window)

    After::

        1. own = tt_edge.sliding_window_mask(write_indices, input_ids, capacity, window)    once for each window
        2. source = tt_edge.prefix_mask(q, cross_key_0, cross_lengths, 0, 0)                once
        3. mask = aten.cat([own, source], -1)                                               once for each window
        4. K = tt_edge.kv_cache_update(past_key_0, k, write_indices)     also an output, present_key_0; V likewise
        5. y = tt_edge.masked_attention(aten.mul(q, scale), aten.cat([K, cross_key_0], 2), …, mask)

    The keys of the cache and the source are copied side by side in every call.
    """

    def expected(self, context: LoweringContext) -> Expectation | None:
        return Expectation.one_per_decoder_layer(context)

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        attentions = list(calls(graph, ops.merged_attention.default))
        if not attentions:
            return 0
        tokens = placeholder(graph, "input_ids")
        batch = shape(tokens)[:1]
        starts, lengths = (
            add_placeholder(graph, name, batch, torch.int32) for name in ("write_indices", CROSS_LENGTHS)
        )
        capacity = context.config.limits.max_seq_len
        masks: dict[int, Node] = {}
        source: Node | None = None
        presents: list[Node] = []
        for index, node in enumerate(attentions):
            arguments: Any = node.args
            query, *own, cross_key, cross_value, scale, window = arguments
            past = [cache_input(graph, f"past_{kind}_{index}", update, context)
                    for kind, update in zip(("key", "value"), own, strict=True)]  # fmt: skip
            with graph.inserting_before(node):
                if source is None:
                    source = emit(graph, ops.prefix_mask.default, query, cross_key, lengths, 0, 0)
                window = window if 0 < window < capacity else capacity
                if window not in masks:
                    seen = emit(graph, ops.sliding_window_mask.default, starts, tokens, capacity, window)
                    masks[window] = emit(graph, aten.cat.default, [seen, source], -1)
                updated = [
                    emit(graph, ops.kv_cache_update.default, cache, update, starts, origin=node)
                    for cache, update in zip(past, own, strict=True)
                ]
                keys, values = (
                    emit(graph, aten.cat.default, [cache, cross], 2, origin=node)
                    for cache, cross in zip(updated, (cross_key, cross_value), strict=True)
                )
                scaled = emit(graph, aten.mul.Tensor, query, scale, like=query, origin=node)
                out = emit(graph, ops.masked_attention.default, scaled, keys, values, masks[window], like=node)
            presents += updated
            replace(node, out)
        set_outputs(graph, [*output_values(graph), *presents])
        return len(attentions)
