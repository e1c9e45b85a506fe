"""Express a decoder's attention to its source by TensorRT's attention layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

import tt_edge.plugins.ops.native  # noqa: F401  (defines operators)
from tt_edge.contract import CROSS_LENGTHS
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import ATTENTION, AttentionCall
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    calls,
    emit,
    placeholder,
    replace,
    shape,
)

ops = torch.ops.tt_edge


class InsertCrossAttention(LoweringPass):
    """Express attention to the keys and values of a source, which are inputs of the graph, by ``IAttention``.

    Before::

        1. y = tt_edge.attention(q, cross_key_0, cross_value_0, scale, causal=False)

    After::

        1. y = tt_edge.prefix_attention(aten.mul(q, scale), cross_key_0, cross_value_0, cross_lengths)

    ``cross_lengths`` int32 ``[B]`` says how many keys of each slot's source are in use. A source whose size is ``fixed`` has no
    padding: attention becomes ``tt_edge.full_attention``. A softcap (T5Gemma) makes it ``tt_edge.capped_attention``, with a mask of
    the keys in use. Self-attention is left for the passes that insert its cache.
    """

    def __init__(self, *, fixed: bool) -> None:
        self._fixed = fixed

    def expected(self, context: LoweringContext) -> Expectation | None:
        return Expectation.one_per_decoder_layer(context)

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        attentions = [node for node in calls(graph, ATTENTION) if AttentionCall.of(node).key.op == "placeholder"]
        if not attentions:
            return 0
        lengths: tuple[Any, ...] = ()
        if not self._fixed:
            batch = shape(placeholder(graph, "input_ids"))[:1]
            lengths = (add_placeholder(graph, CROSS_LENGTHS, batch, torch.int32),)
        target = ops.full_attention.default if self._fixed else ops.prefix_attention.default
        mask: Node | None = None
        for node in attentions:
            call = AttentionCall.of(node)
            capped_page = call.softcap is not None and self._fixed
            if call.causal or call.window or capped_page or call.sinks is not None or call.bias is not None:
                raise UnsupportedModelError(
                    "the decoder's attention to its source is causal, windowed, biased, with sinks, or capped over a source of "
                    "fixed size, which is not supported; please report the model type"
                )
            with graph.inserting_before(call.node):
                query = emit(graph, aten.mul.Tensor, call.query, call.scale, like=call.query, origin=call.node)
                operands = (query, call.key, call.value)
                if call.softcap is None:
                    out = emit(graph, target, *operands, *lengths, like=call.node)
                else:
                    if mask is None:
                        mask = emit(graph, ops.prefix_mask.default, call.query, call.key, *lengths, 0, 0)
                    out = emit(graph, ops.capped_attention.default, *operands, mask, call.softcap, like=call.node)
            replace(call.node, out)
        return len(attentions)
