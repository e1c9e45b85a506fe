"""Make T5's guard against infinite numbers in half precision a matter of each number alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace

#: T5 lowers its limit by this much where there is an infinite number.
_MARGIN = 1000.0


class LimitHalfPrecision(LoweringPass):
    """Limit every number to the range of fp16 less 1,000, whether or not another one is infinite.

    Before (T5, in fp16)::

        1. limit = aten.where(aten.any(aten.isinf(x)), 64504, 65504)
        2. y = aten.clamp(x, -limit, limit)

    After::

        1. y = aten.clamp(x, -64504, 64504)

    The model's form makes a token's numbers depend on whether any other token, padding included, has an infinite one. The
    result differs only for finite numbers beyond 64,504 where none is infinite.
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.clamp.Tensor):
            arguments: Any = node.args
            x, _, limit = arguments
            if not _depends_on_infinity(limit):
                continue
            bound = torch.finfo(node.meta["val"].dtype).max - _MARGIN
            with graph.inserting_before(node):
                limited = emit(graph, aten.clamp.default, x, -bound, bound, like=node)
            replace(node, limited)
            matches += 1
        return matches


def _depends_on_infinity(limit: Any) -> bool:
    """Whether ``limit`` is chosen by whether a tensor has an infinite number."""
    is_choice = isinstance(limit, Node) and limit.target in (aten.where.self, aten.where.ScalarOther, aten.where.Scalar)
    condition = limit.args[0] if is_choice else None
    if not isinstance(condition, Node) or condition.target is not aten.any.default:
        return False
    (test,) = condition.args
    return isinstance(test, Node) and test.target in (aten.isinf.default, aten.eq.Scalar)
