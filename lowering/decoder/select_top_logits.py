"""Choose the likeliest tokens in the network, for steps that copy these instead of the whole vocabulary's logits."""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule

import tt_edge.plugins.ops.native  # noqa: F401  (defines the operator)
from tt_edge.errors import LoweringError
from tt_edge.lowering.base import (
    Expectation,
    LoweringContext,
    LoweringPass,
    emit,
    output_values,
    set_outputs,
    shape,
)


class SelectTopLogits(LoweringPass):
    """Add the largest logits, their token ids, and the log-sum-exp over the whole vocabulary to the outputs.

    One logit more than asked for is selected: it shows whether the last one that was asked for is tied with others.

    Before::

        1. return logits                                             [B, V]

    After::

        1. values, ids, log_sum_exp = tt_edge.top_logits(logits, K + 1)  [B, K + 1], [B, K + 1], [B]
        2. return logits, values, ids, log_sum_exp

    """

    def __init__(self, count: int) -> None:
        self.count = count

    def expected(self, context: LoweringContext) -> Expectation | None:
        return Expectation(1, "a decoder has one output of logits")

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        count, graph = self.count, module.graph
        (logits,) = output_values(graph)
        vocabulary = shape(logits)[-1]
        if count >= vocabulary:
            raise LoweringError(
                f"top-k={count} is not less than the model's vocabulary of {vocabulary} tokens; omit --logits"
            )
        with graph.inserting_before(graph.output_node()):
            top = emit(graph, torch.ops.tt_edge.top_logits.default, logits, count + 1)
            parts = [emit(graph, operator.getitem, top, index, origin=logits) for index in range(3)]
        set_outputs(graph, [logits, *parts])
        return 1
