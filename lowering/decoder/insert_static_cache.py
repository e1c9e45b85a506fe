"""Attention for the ``sdpa`` backend: without a cache, or with one that is passed into and out of the network."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

import tt_edge.plugins.ops.sdpa  # noqa: F401  (defines the operators)
from tt_edge.config import Cache
from tt_edge.contract import END, START
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


class InsertStaticCache(LoweringPass):
    """Give every attention its mask and, with ``CompileConfig.cache`` ``static_v1`` or ``static_v2``, its KV cache.

    Before::

        1. y = tt_edge.attention(q, k, v, scale)

    After, ``static_v1``::

        1. mask = tt_edge.causal_mask(input_ids, start_idx, end_idx, window)      once for each window
        2. K = tt_edge.static_cache_update(past_key_0, k, start_idx, end_idx)     also an output, present_key_0
        3. V = tt_edge.static_cache_update(past_value_0, v, start_idx, end_idx)   also an output, present_value_0
        4. y = tt_edge.masked_attention(aten.mul(q, scale), K[:, :, :end_idx], V[:, :, :end_idx], mask)

    In step 4, ``static_v2`` attends to ``cat(past[:, :, :start_idx], k)`` instead of the prefix, so attention does not wait
    for the new cache. Without a cache, attention is over ``k`` and ``v`` themselves.

    Graph inputs are, in order: those of the model, ``start_idx``, ``end_idx``, and for each layer ``past_key_i``,
    ``past_value_i``, ``[B, Hkv, max_seq_len, D]``; outputs: the logits, and ``present_key_i``, ``present_value_i`` for
    each layer. A layer that attends to an earlier layer's keys and values has none: step 4 takes that layer's. Heads are not
    repeated in the cache. The mask is causal at any ``start_idx``, so it is also right for chunks of a prompt and for later
    turns. Where tokens see each other in both directions, ``visible_until`` says up to which place.
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
        cache = _Cache(module, context)
        presents: list[Node] = []
        seen: dict[tuple[Node, Node], tuple[Node, Node]] = {}
        for call in attentions:
            node = call.node
            with graph.inserting_before(node):
                mask = cache.mask(call)
                if call.stored not in seen:
                    number = len(seen)
                    seen[call.stored] = (
                        cache.extend("key", number, call.key, node, presents),
                        cache.extend("value", number, call.value, node, presents),
                    )
                keys, values = seen[call.stored]
                scaled = emit(graph, aten.mul.Tensor, call.query, call.scale, like=call.query, origin=node)
                if call.softcap is not None:
                    capped = ops.capped_attention.default
                    attended = emit(graph, capped, scaled, keys, values, mask, call.softcap, like=node)
                else:
                    attended = emit(graph, ops.masked_attention.default, scaled, keys, values, mask, like=node)
            replace(node, attended)
        set_outputs(graph, [*output_values(graph), *presents])
        return len(attentions)


class _Cache:
    """The cache's inputs and outputs, layer by layer, and the masks that the layers share."""

    def __init__(self, module: GraphModule, context: LoweringContext) -> None:
        self.graph, self.context = module.graph, context
        graph = self.graph
        self.version = context.config.attention.cache
        self.tokens = placeholder(graph, "input_ids")
        self.masks: dict[tuple[int | None, Node | None], Node] = {}
        self.start: Node | None = None
        self.end: Node | None = None
        if self.version is not Cache.NONE:
            self.start, self.end = (add_placeholder(graph, name, (1,), torch.int64) for name in (START, END))
        self.until = visible_until(graph, self.tokens, context)
        self.biases = CausalBias(module, self.tokens, self.start, self.end, 0)

    def mask(self, call: AttentionCall) -> Node:
        """What a query sees: booleans or, with T5's bias, numbers."""
        if call.bias is not None:
            return self.biases.mask(call.bias)
        window = call.window_within(self.context.config.limits.max_seq_len)
        until = in_blocks(call, self.until, self.context)
        if (window, until) not in self.masks:
            mask = ops.causal_mask.default
            arguments = (self.tokens, self.start, self.end, window or 0)
            self.masks[window, until] = emit(self.graph, mask, *arguments, *([] if until is None else [until]))
        return self.masks[window, until]

    def extend(self, kind: str, index: int, update: Node, origin: Node, presents: list[Node]) -> Node:
        """All keys, or values, that the layer attends to; the new cache is added to ``presents``."""
        if self.version is Cache.NONE:
            return update
        past, present = f"past_{kind}_{index}", f"present_{kind}_{index}"
        batch, heads, _, dim = shape(update)
        sizes = (batch, heads, self.context.config.limits.max_seq_len, dim)
        cache = add_placeholder(self.graph, past, sizes, value(update).dtype)
        self.context.kv_cache.append((past, present))
        new = emit(self.graph, ops.static_cache_update.default, cache, update, self.start, self.end, origin=origin)
        presents.append(new)
        if self.version is Cache.STATIC_V1:
            return emit(self.graph, ops.cache_prefix.default, new, self.end, origin=origin)
        return emit(self.graph, ops.append_to_prefix.default, cache, update, self.start, origin=origin)


def _check(call: AttentionCall) -> None:
    if not call.causal:
        raise UnsupportedModelError("the model has non-causal attention; the sdpa backend compiles causal decoders")
    if call.sinks is not None:
        raise UnsupportedModelError("the model has attention sinks, which the sdpa backend cannot express")
    check_bias(call)
