"""Express the attention of vision towers by TensorRT's attention layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

import tt_edge.plugins.ops.native  # noqa: F401  (defines operators)
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import ATTENTION, AttentionCall
from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace, shape

ops = torch.ops.tt_edge
_SDPA = aten.scaled_dot_product_attention.default


class InsertVisionAttention(LoweringPass):
    """Express attention without a cache by ``IAttention``, with a mask if there are segments.

    Before::

        1. y = tt_edge.segment_attention(q, k, v, segments, scale)               segments [N], or [W, L] for windows
        2. z = tt_edge.attention(q, k, v, scale, causal=False)
        3. w = aten.scaled_dot_product_attention(q, k, v)                        of towers that call it themselves (timm's)

    After::

        1. mask = aten.eq(segments[:, :, None], segments[:, None, :])[:, None]   [W, 1, L, L], once for all layers
        2. y = tt_edge.masked_attention(aten.mul(q, scale), k, v, mask)          on [W, H, L, D], and back
        3. z = tt_edge.full_attention(aten.mul(q, scale), k, v)                  w likewise, k and v with as many heads or fewer
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        masks: dict[Node, Node] = {}
        for node in calls(graph, ops.segment_attention.default, ATTENTION):
            with graph.inserting_before(node):
                out = (
                    _segments(graph, node, masks)
                    if node.target is ops.segment_attention.default
                    else full_attention(graph, unrestricted(node))
                )
            replace(node, out)
            matches += 1
        for node in calls(graph, _SDPA):
            if (scale := _plain_scale(node)) is not None:
                query, key, value = node.args[:3]
                with graph.inserting_before(node):
                    scaled = emit(graph, aten.mul.Tensor, query, scale, origin=node)
                    replace(node, emit(graph, ops.full_attention.default, scaled, key, value, like=node))
                matches += 1
        return matches


def _plain_scale(node: Node) -> float | None:
    """The scale of an attention over images' places; ``None`` for one with a mask, which stays as it is."""
    given = dict(zip((each.name for each in _SDPA._schema.arguments), node.args, strict=False)) | node.kwargs
    query, key, value = (shape(given[name]) for name in ("query", "key", "value"))  # type: ignore[arg-type]
    is_plain = given.get("attn_mask") is None and not given.get("is_causal") and len(query) == 4
    same = isinstance(query[1], int) and isinstance(key[1], int) and query[1] % key[1] == 0 and key[3] == value[3]
    if not (is_plain and same):
        return None
    scale: Any = given.get("scale")
    return float(query[3]) ** -0.5 if scale is None else float(scale)


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
        counts = (heads, *(int(shape(t)[1]) for t in (key, value)))
        apart = [add(aten.view.default, t, [n, -1, length, size]) for t, n in zip(operands, counts, strict=True)]
        operands = [add(aten.permute.default, t, [1, 0, 2, 3]) for t in apart]
    out = add(ops.masked_attention.default, *operands, masks[segments])
    if windowed:
        out = add(aten.permute.default, out, [1, 0, 2, 3])
        out = add(aten.reshape.default, out, [1, heads, -1, size])
    return out


def unrestricted(node: Node) -> AttentionCall:
    """Read an attention in which every query sees every key. Raises ``UnsupportedModelError`` for any other."""
    call = AttentionCall.of(node)
    if call.causal or call.window is not None or call.softcap is not None or call.sinks is not None:
        raise UnsupportedModelError(
            "the vision tower has attention that is causal, windowed, capped or with sinks, which is not supported; "
            "please report the model type"
        )
    return call


def full_attention(graph: Graph, call: AttentionCall) -> Node:
    """``unrestricted`` attention as ``IAttention``."""
    scaled = emit(graph, aten.mul.Tensor, call.query, call.scale, like=call.query)
    return emit(graph, ops.full_attention.default, scaled, call.key, call.value, like=call.node)
