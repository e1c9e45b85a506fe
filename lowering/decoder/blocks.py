"""The input that says how far each token of a prompt sees, where some see each other in both directions."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from tt_edge.contract import VISIBLE_UNTIL
from tt_edge.lowering.attention_call import AttentionCall
from tt_edge.lowering.base import LoweringContext, add_placeholder, aten, emit, shape


def in_blocks(call: AttentionCall, until: Node | None, context: LoweringContext) -> Node | None:
    """``until`` for a layer in which tokens see each other in both directions; ``None`` for a causal one."""
    return None if context.window_blocks and call.window is None else until


def visible_until(graph: Graph, tokens: Node, context: LoweringContext) -> Node | None:
    """The place up to which each token sees, exclusive, as ``[B, 1, S, 1]`` int32; ``None`` for causal attention."""
    if not context.blocks:
        return None
    until = add_placeholder(graph, VISIBLE_UNTIL, shape(tokens), torch.int32)
    with graph.inserting_before(next(node for node in graph.nodes if node.op == "call_function")):
        for dim in (1, 3):
            until = emit(graph, aten.unsqueeze.default, until, dim)
    return until
