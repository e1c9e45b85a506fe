"""Attention of vision towers, in the form of TensorRT's attention layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

import tt_edge.plugins.ops.native  # noqa: F401  (defines operators)
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, shape

ops = torch.ops.tt_edge


class VisionAttention(LoweringPass):
    """Give attention without a cache the form of ``IAttention``, with a mask where there are segments.

    Before::

        1. y = tt_edge.segment_attention(q, k, v, segments, scale)               segments [N], or [W, L] for windows
        2. z = tt_edge.attention(q, k, v, scale, causal=False)

    After::

        1. mask = aten.eq(segments[:, :, None], segments[:, None, :])[:, None]   [W, 1, L, L], once for all layers
        2. y = tt_edge.masked_attention(aten.mul(q, scale), k, v, mask)          on [W, H, L, D], and back
        3. z = tt_edge.full_attention(aten.mul(q, scale), k, v)
    """

    name = "vision_attention"

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        masks: dict[Node, Node] = {}
        for node in calls(graph, ops.segment_attention.default, ops.attention.default):
            with graph.inserting_before(node):
                out = (
                    _segments(graph, node, masks)
                    if node.target is ops.segment_attention.default
                    else full_attention(graph, node)
                )
            node.replace_all_uses_with(out)
            graph.erase_node(node)
            matches += 1
        return matches


def _segments(graph: Graph, node: Node, masks: dict[Node, Node]) -> Node:
    arguments: Any = node.args
    query, key, value, segments, scale = arguments
    windowed = len(shape(segments)) == 2
    heads, size = int(shape(query)[1]), int(shape(query)[3])

    def add(target: Any, *args: Any) -> Node:
        return emit(graph, target, *args, origin=node)

    if segments not in masks:
        rows = segments if windowed else add(aten.unsqueeze.default, segments, 0)
        equal = add(aten.eq.Tensor, add(aten.unsqueeze.default, rows, 2), add(aten.unsqueeze.default, rows, 1))
        masks[segments] = add(aten.unsqueeze.default, equal, 1)
    operands = [add(aten.mul.Tensor, query, scale), key, value]
    if windowed:
        length = int(shape(segments)[1])
        apart = [add(aten.view.default, t, [heads, -1, length, size]) for t in operands]
        operands = [add(aten.permute.default, t, [1, 0, 2, 3]) for t in apart]
    out = add(ops.masked_attention.default, *operands, masks[segments])
    if windowed:
        out = add(aten.permute.default, out, [1, 0, 2, 3])
        out = add(aten.reshape.default, out, [1, heads, -1, size])
    return out


def operands_of(node: Node) -> tuple[Node, Node, Node, float]:
    """Query, key, value and scale of ``tt_edge.attention`` in which everything is seen.

    Raises ``UnsupportedModelError`` for any other.
    """
    arguments: Any = [*node.args, *(True, 0, 0.0, None)[len(node.args) - 4 :]]
    query, key, value, scale, causal, window, softcap, sinks = arguments
    if causal or window or softcap or sinks is not None:
        raise UnsupportedModelError(
            "the vision tower has attention that is causal, windowed, capped or with sinks, which is not supported; "
            "please report the model type"
        )
    return query, key, value, scale


def full_attention(graph: Graph, node: Node) -> Node:
    """``tt_edge.attention`` in which everything is seen, as ``IAttention``."""
    query, key, value, scale = operands_of(node)
    scaled = emit(graph, aten.mul.Tensor, query, scale, like=query)
    return emit(graph, ops.full_attention.default, scaled, key, value, like=node)
