"""Join slices instead of writing one of them into a copy."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace, shape


class JoinSlices(LoweringPass):
    """Replace what is written to a part of a dimension of static size by the parts, side by side.

    Torch-TensorRT's converter makes a scatter, whose indices are wrong where another dimension is dynamic (Gemma 3n adds each
    layer's own input to all but the first of its states).

    Before::

        1. y = aten.slice_scatter(x, part, 0, 1, INT64_MAX)     x is [4, B, S, H], part is [3, B, S, H]

    After::

        1. y = aten.cat([x[:1], part], 0)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.slice_scatter.default):
            x, part, *bounds = node.args
            given: Any = [*bounds, *[0, None, None, 1][len(bounds) :]]
            dim, first, last, step = given
            size: Any = shape(x)[dim]  # type: ignore[arg-type]
            if step != 1 or not all(each is None or isinstance(each, int) for each in (size, first, last)):
                continue
            start, stop, _ = slice(first, last).indices(size)
            with graph.inserting_before(node):
                around = [
                    emit(graph, aten.slice.Tensor, x, dim, *ends) if ends[0] < ends[1] else None
                    for ends in ((0, start), (stop, size))
                ]
                parts = [each for each in (around[0], part, around[1]) if each is not None]
                joined = emit(graph, aten.cat.default, parts, dim, like=node) if len(parts) > 1 else part
            replace(node, joined)  # type: ignore[arg-type]
            matches += 1
        return matches
