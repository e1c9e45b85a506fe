"""Broadcast along a dimension of size 1 instead of repeating along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace, shape


class BroadcastRepeats(LoweringPass):
    """Replace ``repeat`` along new dimensions and those of size 1, which copies, by what broadcasts.

    Torch-TensorRT's converter of ``repeat`` cannot put a dimension before two dynamic ones (Gemma 3n's AltUp).

    Before::

        1. a = aten.repeat(x, [4, 1, 1, 1])     x is [B, S, H]
        2. y = aten.mul(a, z)                   z is [4, B, S, 1]

    After::

        1. a = aten.unsqueeze(x, 0)
        2. y = aten.mul(a, z)

    Where the users do not broadcast by themselves, ``aten.expand`` follows.
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.repeat.default):
            arguments: Any = node.args
            source, counts = arguments
            added = len(counts) - len(shape(source))
            sizes = (*[1] * added, *shape(source))
            if any(not isinstance(n, int) or (n != 1 and size != 1) for n, size in zip(counts, sizes, strict=True)):
                continue
            with graph.inserting_before(node):
                for _ in range(added):
                    source = emit(graph, aten.unsqueeze.default, source, 0, origin=node)
                if not all(_broadcasts(user, node, counts) for user in node.users):
                    wanted = [-1 if n == 1 else n for n in counts]
                    source = emit(graph, aten.expand.default, source, wanted, like=node)
            replace(node, source)
            matches += 1
        return matches


def _broadcasts(user: Node, repeated: Node, counts: Sequence[int]) -> bool:
    """Whether another operand of ``user``, which is pointwise, has the sizes of ``repeated`` where that was repeated."""
    if torch.Tag.pointwise not in getattr(user.target, "tags", ()):
        return False
    others = [shape(each) for each in user.all_input_nodes if each is not repeated]
    return any(
        len(sizes) == len(counts) and all(n == 1 or size == n for n, size in zip(counts, sizes, strict=True))
        for sizes in others
    )
