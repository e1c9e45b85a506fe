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
from tt_edge.lowering.decoder.causal_bias import bias_table, check_bias

ops = torch.ops.tt_edge


class InsertEncoderAttention(LoweringPass):
    """Express attention among the tokens of a source by ``IAttention``, which sees no padding.

    Before::

        1. bias = tt_edge.relative_bias(table, S, S)                            T5 only
        2. y = tt_edge.attention(q, k, v, scale, causal=False, bias=bias)

    After::

        1. bias = tt_edge.relative_rows(table, source_ids)                      [1, H, S, S], once for the layers that share it
        2. y = tt_edge.prefix_attention(aten.mul(q, scale), k, v, source_lengths, bias)

    A page and speech have no padding: ``tokens`` is ``None`` and attention becomes ``tt_edge.full_attention``, as it does among the
    patches of an image before a text, and among the tokens that a text has for its image. With a window that is shorter than the
    longest source, or a softcap (T5Gemma)::

        1. mask = tt_edge.prefix_mask(q, k, source_lengths, window, ahead)      once for each window
        2. y = tt_edge.masked_attention(aten.mul(q, scale), k, v, mask)         or capped_attention, with the softcap
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
        masks: dict[tuple[int, int], Node] = {}
        for node in attentions:
            call = AttentionCall.of(node)
            # Of a text that is read with an image, there are other tokens, and no padding.
            padded = tokens is not None and str(shape(call.key)[2]) == str(shape(tokens)[1])
            _check(call, is_padded=padded)
            with graph.inserting_before(call.node):
                query = emit(graph, aten.mul.Tensor, call.query, call.scale, like=call.query, origin=call.node)
                operands = (query, call.key, call.value)
                window = _window(call, context.config.limits.max_source_len)
                if not padded or lengths is None:
                    out = emit(graph, ops.full_attention.default, *operands, like=call.node)
                elif window is not None or call.softcap is not None:
                    near = window or (0, 0)
                    if near not in masks:
                        masks[near] = emit(graph, ops.prefix_mask.default, call.query, call.key, lengths, *near)
                    if call.softcap is None:
                        out = emit(graph, ops.masked_attention.default, *operands, masks[near], like=call.node)
                    else:
                        capped = ops.capped_attention.default
                        out = emit(graph, capped, *operands, masks[near], call.softcap, like=call.node)
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


def _window(call: AttentionCall, longest: int | None) -> tuple[int, int] | None:
    """The window and how far it goes ahead; ``None`` if every token of a source of ``longest`` sees all the others."""
    if call.window is None or (longest is not None and longest <= min(call.window, call.ahead + 1)):
        return None
    return call.window, call.ahead


def _check(call: AttentionCall, *, is_padded: bool) -> None:
    if call.causal or call.sinks is not None:
        raise UnsupportedModelError(
            "the encoder has attention that is causal or with sinks, which is not supported; please report the model type"
        )
    limits = [what for what in ("window", "softcap", "bias") if getattr(call, what) is not None]
    if limits and not is_padded:
        raise UnsupportedModelError(
            f"the encoder of speech or pages has attention with a {limits[0]}, which is not supported; please report the model "
            "type"
        )
    check_bias(call)
