"""Compute float32 logits only for the last token of each batch slot."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

import tt_edge.plugins.ops.quantization  # noqa: F401  (defines an operator)
from tt_edge.config import Layout
from tt_edge.errors import LoweringError
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    add_placeholder,
    aten,
    emit,
    infer,
    output_values,
    set_outputs,
    shape,
    value,
)

#: The head itself.
_HEADS = (aten.linear.default, torch.ops.tt_edge.quantized_linear.default)
#: Elementwise operators that may be between the head's matrix multiply and the logits.
_ELEMENTWISE = frozenset(
    {
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.add.Tensor,
        aten.tanh.default,
        aten._to_copy.default,
        aten.mul.Scalar,
        aten.masked_fill.Scalar,
    }
)


class MoveLogitsToLastToken(LoweringPass):
    """Run the language model head only on the last token of each batch slot, and return logits in float32.

    The head is the largest matrix of a small model, and prefill needs its result only for the last token.

    Before::

        1. logits = aten.linear(hidden, weight)                        [B, S, V]
        2. return logits

    After::

        1. last = tt_edge.gather_last_token(hidden, last_token_indices)  [B, H]
        2. logits = aten.linear(last, weight)                            [B, V]
        3. return aten._to_copy(logits, dtype=float32)

    With ``CompileConfig.full_logits`` only the conversion to float32 is added.
    """

    def expected(self, context: LoweringContext) -> Expectation | None:
        if context.config.network.full_logits:
            return Expectation(0, "logits of all tokens are asked for")
        return Expectation(1, "a decoder has one head")

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        logits, *others = output_values(graph)
        matches = 0
        if not context.config.network.full_logits:
            tail = _head(logits)
            hidden = tail[0].args[0]
            assert isinstance(hidden, Node)
            batch = shape(hidden)[:1]
            edge_llm = context.config.network.layout is Layout.EDGE_LLM  # its runtime passes [B, 1]
            name, sizes = ("last_token_ids", (*batch, 1)) if edge_llm else ("last_token_indices", batch)
            last_token_indices = add_placeholder(graph, name, sizes, torch.int64)
            with graph.inserting_before(tail[0]):
                if edge_llm:
                    last_token_indices = emit(graph, aten.squeeze.dim, last_token_indices, 1)
                last = emit(
                    graph, torch.ops.tt_edge.gather_last_token.default, hidden, last_token_indices, origin=hidden
                )
            tail[0].replace_input_with(hidden, last)
            for node in tail:
                infer(node)
            matches = 1
        if value(logits).dtype != torch.float32:
            with graph.inserting_before(graph.output_node()):
                logits = emit(graph, aten._to_copy.default, logits, dtype=torch.float32)
        set_outputs(graph, [logits, *others])
        return matches


def _head(logits: Node) -> list[Node]:
    """The nodes from the head's matrix multiply to the logits, in order."""
    tail = [logits]
    while tail[0].target not in _HEADS:
        source = tail[0].args[0] if tail[0].args else None
        if tail[0].target not in _ELEMENTWISE or not isinstance(source, Node):
            raise LoweringError(
                f"the logits come from {tail[0].target}, not from a linear head; compile with --full-logits"
            )
        tail.insert(0, source)
    return tail
