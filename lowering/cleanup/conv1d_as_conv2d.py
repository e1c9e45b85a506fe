"""Give convolutions over time the form that TensorRT builds."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule

from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_constant,
    aten,
    calls,
    constant_of,
    emit,
    replace,
    value,
)


class Conv1dAsConv2d(LoweringPass):
    """Replace convolutions over time by those of an image one pixel high.

    torch_tensorrt makes them two-dimensional, too, but one pixel wide. With those of a Conformer of two layers, TensorRT-RTX 1.6.1
    fails (``Myelin … tactic.cpp:2152: CHECK(expt_rank == out_opnd->dimensions().size())``): Canary, Cohere's ASR, SeamlessM4T.

    Before::

        1. y = aten.conv1d(x, weight, bias, stride, padding, dilation, groups)     x [B, C, T], weight [N, C / groups, K]

    After::

        1. rows = aten.unsqueeze(x, 2)
        2. out = aten.conv2d(rows, weight [N, C / groups, 1, K], bias, [1, stride], [0, padding], [1, dilation], groups)
        3. y = aten.squeeze(out, 2)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.conv1d.default, aten.conv1d.padding):
            given = _arguments(node)
            weight = constant_of(module, given["weight"])
            if weight is None or value(node).ndim != 3:
                continue
            padding = given["padding"]
            sizes = [
                [1, *given["stride"]],
                padding if isinstance(padding, str) else [0, *padding],
                [1, *given["dilation"]],
            ]
            target: Any = aten.conv2d.padding if isinstance(padding, str) else aten.conv2d.default
            with graph.inserting_before(node):
                kernel = add_constant(
                    module, f"{str(given['weight'].target).replace('.', '_')}_row", weight.unsqueeze(2)
                )
                rows = emit(graph, aten.unsqueeze.default, given["input"], 2, origin=node)
                out = emit(graph, target, rows, kernel, given["bias"], *sizes, given["groups"], origin=node)
                result = emit(graph, aten.squeeze.dim, out, 2, origin=node)
            replace(node, result)
            matches += 1
        return matches


def _arguments(node: torch.fx.Node) -> dict[str, Any]:
    """The arguments of ``node`` by name, with the operator's own values for those that are not given."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    found = {each.name: each.default_value for each in schema.arguments}
    found |= dict(zip(found, node.args, strict=False)) | dict(node.kwargs)
    for name in ("stride", "padding", "dilation"):
        if isinstance(found[name], int):
            found[name] = [found[name]]
    return found
