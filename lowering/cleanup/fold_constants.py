"""Compute operators that depend only on weights at compile time."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, add_constant, constant_of, replace

#: Results up to this many elements are stored; larger ones (a whole matrix converted or transposed) would be copies of
#: weights that the network can share.
_LARGEST = 1 << 16


class FoldConstants(LoweringPass):
    """Evaluate operators whose inputs are all constants.

    Gemma's norms multiply by ``1 + weight``, and activations with learned parameters use functions of these. The converters
    refuse some of these operators, and the others would become layers.

    Before::

        1. a = aten.to.dtype(weight, float32)
        2. b = aten.add(a, 1.0)
        3. y = aten.mul(x, b)

    After::

        1. y = aten.mul(x, b_folded)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in list(graph.nodes):
            folded = _fold(module, node)
            if folded is None:
                continue
            with graph.inserting_before(node):
                constant = add_constant(module, f"{node.name}_folded", folded)
            replace(node, constant)
            matches += 1
        return matches


def _fold(module: GraphModule, node: Node) -> torch.Tensor | None:
    """The value of ``node``, if it is a small tensor that depends only on constants; or a part of a constant that is split.

    No converter splits a constant, so its parts may be of any size.
    """
    val: Any = node.meta.get("val")
    if node.op != "call_function" or not node.all_input_nodes or not isinstance(val, torch.Tensor):
        return None
    if node.target is operator.getitem:
        [source] = node.all_input_nodes
        parts = _evaluated(module, source)
        return None if parts is None else parts[node.args[1]].contiguous()
    if not all(isinstance(size, int) for size in val.shape) or val.numel() > _LARGEST:
        return None
    result = _evaluated(module, node)
    return result.contiguous() if isinstance(result, torch.Tensor) else None


def _evaluated(module: GraphModule, node: Node) -> Any:
    """The result of ``node``; ``None`` for one that is no operator on constants."""
    constants = {source: constant_of(module, source) for source in node.all_input_nodes}
    if node.op != "call_function" or not constants or any(constant is None for constant in constants.values()):
        return None
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), constants.__getitem__)
    return node.target(*args, **kwargs)  # type: ignore[operator]
