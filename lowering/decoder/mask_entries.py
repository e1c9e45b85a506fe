"""Express the assignment of one number to certain entries of a tensor by a mask."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_constant,
    aten,
    calls,
    constant_of,
    emit,
    replace,
    shape,
)


class MaskEntries(LoweringPass):
    """Express the assignment of one number to certain entries along the last dimension by a mask.

    Chameleon never answers with the tokens of images: it overwrites their logits.

    Before::

        1. y = aten.index_put(x, [None, None, entries], number)     entries: a constant

    After::

        1. y = aten.masked_fill(x, mask, number)                    mask: true at the entries
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.index_put.default, aten.index_put_.default):
            found = _assignment(module, node)
            if found is None:
                continue
            source, entries, number = found
            mask = torch.zeros(int(shape(source)[-1]), dtype=torch.bool)
            mask[entries] = True
            with graph.inserting_before(node):
                by = add_constant(module, f"{node.name}_mask", mask)
                filled = emit(graph, aten.masked_fill.Scalar, source, by, number, origin=node)
            replace(node, filled)
            matches += 1
        return matches


def _assignment(module: GraphModule, node: Node) -> tuple[Node, torch.Tensor, float] | None:
    """The tensor, its entries and the number of an assignment of this form; ``None`` for another."""
    source, indices, values, *accumulate = node.args
    if not isinstance(source, Node) or not isinstance(indices, list | tuple) or any(accumulate):
        return None
    *others, last = indices
    entries, number = constant_of(module, last), constant_of(module, values)
    along_last = len(indices) == len(shape(source)) and all(each is None for each in others)
    if not along_last or entries is None or number is None or number.numel() != 1:
        return None
    return source, entries, float(number)
