"""Express RoPE as products and sums, for backends without a rotary layer."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace, shape

ops = torch.ops.tt_edge


class ExpandRotary(LoweringPass):
    """Replace table-based rotations by elementwise operators.

    The rows of both tables are looked up once for all layers.

    Before (with M-RoPE it is ``tt_edge.rotary_from_rows``, and step 1 is there already)::

        1. y = tt_edge.rotary_from_table(x, cos_table, sin_table, position_ids)

    After (halves; an interleaved rotation pairs neighbours in place of halves)::

        1. cos, sin = aten.unsqueeze(aten.embedding(cos_table, position_ids), 1), …    [B, 1, S, R / 2], once
        2. a, b = x[..., : R / 2], x[..., R / 2 : R]
        3. y = aten.cat([a * cos - b * sin, b * cos + a * sin, x[..., R :]], -1)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        rows: dict[tuple[Any, Any], Node] = {}
        for node in calls(graph, ops.rotary_from_table.default, ops.rotary_from_rows.default):
            arguments: Any = node.args
            by_table = node.target is ops.rotary_from_table.default
            x, cos_source, sin_source, *interleaved = arguments
            positions = interleaved.pop(0) if by_table else None
            with graph.inserting_before(node):
                for source in (cos_source, sin_source):
                    if (source, positions) not in rows:
                        found = emit(graph, aten.embedding.default, source, positions) if by_table else source
                        rows[source, positions] = emit(graph, aten.unsqueeze.default, found, 1)
                cos, sin = rows[cos_source, positions], rows[sin_source, positions]
                rotated = rotate(
                    graph, node, x, (cos, sin), (cos, sin), interleaved=bool(interleaved and interleaved[0])
                )
            replace(node, rotated)
            matches += 1
        return matches


Angles = tuple[Node, Node]


def rotate(graph: Graph, origin: Node, x: Node, own: Angles, others: Angles, *, interleaved: bool = False) -> Node:
    """``x`` ``[B, H, S, D]``, rotated: of each pair the first by its ``own`` cosines and sines ``[B, 1, S, R / 2]``, the second by
    the ``others``.
    """

    def add(target: Any, *args: Any) -> Node:
        return emit(graph, target, *args, origin=origin)

    dim, half = int(shape(x)[-1]), int(shape(own[0])[-1])
    if interleaved:
        first, second = (add(aten.slice.Tensor, x, -1, offset, 2 * half, 2) for offset in (0, 1))
    else:
        first, second = (add(aten.slice.Tensor, x, -1, start, start + half) for start in (0, half))
    a = add(aten.sub.Tensor, add(aten.mul.Tensor, first, own[0]), add(aten.mul.Tensor, second, own[1]))
    b = add(aten.add.Tensor, add(aten.mul.Tensor, second, others[0]), add(aten.mul.Tensor, first, others[1]))
    if interleaved:
        pairs = [add(aten.unsqueeze.default, t, -1) for t in (a, b)]
        parts = [add(aten.flatten.using_ints, add(aten.cat.default, pairs, -1), -2, -1)]
    else:
        parts = [a, b]
    if 2 * half < dim:
        parts.append(add(aten.slice.Tensor, x, -1, 2 * half, dim))
    return add(aten.cat.default, parts, -1) if len(parts) > 1 else parts[0]
