"""Replace linear layers by one matrix multiply each."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace


class ReplaceLinears(LoweringPass):
    """Replace linear layers by our own operator, whose converter multiplies by the weight in its stored layout.

    torch_tensorrt's converter of ``aten.linear`` adds a separate layer that transposes the weight.

    Before::

        1. y = aten.linear(x, weight, bias)

    After::

        1. y = tt_edge.linear(x, weight, bias)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.linear.default):
            with graph.inserting_before(node):
                linear = emit(graph, torch.ops.tt_edge.linear.default, *node.args, like=node)
            replace(node, linear)
            matches += 1
        return matches
