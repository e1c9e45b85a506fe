"""Replace the patch-embedding convolution by a matrix multiply."""

from __future__ import annotations

import math
from typing import Any

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
    shape,
)


class ReplacePatchConvolution(LoweringPass):
    """Replace convolutions whose kernel covers their whole input by linear layers.

    Before::

        1. y = aten.conv3d(x, weight, bias, stride)               x [N, C, T, P, P], weight [H, C, T, P, P]; y [N, H, 1, 1, 1]

    After::

        1. y = aten.view(aten.linear(aten.reshape(x, [-1, C T P P]), weight [H, C T P P], bias), [-1, H, 1, 1, 1])
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, aten.conv3d.default, aten.conv2d.default, aten.convolution.default):
            arguments: Any = node.args
            x, weight, *rest = arguments
            bias, matrix = (rest[0] if rest else None), constant_of(module, weight)
            kernel = shape(weight)[1:]
            if matrix is None or tuple(shape(x)[1:]) != kernel or any(size != 1 for size in shape(node)[2:]):
                continue
            width = math.prod(kernel)
            with graph.inserting_before(node):
                flat = emit(graph, aten.reshape.default, x, [-1, width], origin=node)
                rows = add_constant(module, f"{str(weight.target).replace('.', '_')}_rows", matrix.reshape(-1, width))
                product = emit(graph, aten.linear.default, flat, rows, bias, origin=node)
                result = emit(graph, aten.view.default, product, [-1, *shape(node)[1:]], origin=node)
            replace(node, result)
            matches += 1
        return matches
