"""Express the attention of an encoder by TensorRT's attention layer."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

import tt_edge.plugins.ops.native  # noqa: F401  (defines operators)
from tt_edge.contract import SOURCE_LENGTHS
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import ATTENTION, AttentionCall
from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_constant,
    add_placeholder,
    aten,
    calls,
    emit,
    replace,
    shape,
)
from tt_edge.lowering.decoder.causal_bias import bias_table

ops = torch.ops.tt_edge


class InsertEncoderAttention(LoweringPass):
    """Express attention among the tokens of a source by ``IAttention``, which sees no padding.

    Before::

        1. bias = tt_edge.relative_bias(table, S, S)                            T5 only
        2. y = tt_edge.attention(q, k, v, scale, causal=False, bias=bias)

    After::

        1. bias = tt_edge.relative_rows(table, source_ids)                      [1, H, S, S], once for the layers that share it
        2. y = tt_edge.prefix_attention(aten.mul(q, scale), k, v, source_lengths, bias)

    A source of fixed size (speech, a page) has no padding: ``tokens`` is ``None`` and attention becomes
    ``tt_edge.full_attention``.
    """

    def __init__(self, tokens: str | None) -> None:
        self._tokens = tokens

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        attentions = list(calls(graph, ATTENTION))
        if not attentions:
            return 0
        tokens = lengths = None
        if self._tokens is not None:
            tokens = next(node for node in graph.find_nodes(op="placeholder") if node.target == self._tokens)
            lengths = add_placeholder(graph, SOURCE_LENGTHS, shape(tokens)[:1], torch.int32)
        biases: dict[Node, Node] = {}
        for node in attentions:
            call = AttentionCall.of(node)
            _check(call)
            with graph.inserting_before(call.node):
                query = emit(graph, aten.mul.Tensor, call.query, call.scale, like=call.query, origin=call.node)
                operands = (query, call.key, call.value)
                if lengths is None:
                    if call.bias is not None:
                        raise UnsupportedModelError(
                            "the encoder of speech or pages has a bias by distance, which is not supported; please report the "
                            "model type"
                        )
                    out = emit(graph, ops.full_attention.default, *operands, like=call.node)
                else:
                    if call.bias is not None and call.bias not in biases:
                        table = bias_table(module, call.bias)
                        constant = add_constant(module, "relative_bias", table)
                        arguments = (constant, tokens, None, None, 0, table.shape[0] // 2)
                        biases[call.bias] = emit(graph, ops.relative_rows.default, *arguments, origin=call.bias)
                    bias = None if call.bias is None else biases[call.bias]
                    out = emit(graph, ops.prefix_attention.default, *operands, lengths, bias, like=call.node)
            replace(call.node, out)
        return len(attentions)


def _check(call: AttentionCall) -> None:
    if call.causal or call.window is not None or call.softcap is not None or call.sinks is not None:
        raise UnsupportedModelError(
            "the encoder has attention that is causal, windowed, capped or with sinks, which is not supported; please report "
            "the model type"
        )
