"""Fuse the core of RMSNorm into one operator."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace, shape


class FuseRmsNorm(LoweringPass):
    """Recognise the normalisation inside every RMSNorm variant.

    Only the core is replaced. Where the weight is applied, in which type, and with what offset differs between
    families (Llama, Gemma, OLMo) and stays as the model wrote it.

    Before::

        1. p = aten.pow(x, 2)
        2. m = aten.mean(p, [-1], True)
        3. r = aten.rsqrt(aten.add(m, eps))      or aten.pow(…, -0.5), as in Gemma 3n and 4
        4. y = aten.mul(x, r)

    After::

        1. y = tt_edge.rms_normalize(x, eps)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        matches = 0
        for node in calls(module.graph, aten.mul.Tensor):
            for x, scale in (node.args[:2], node.args[1::-1]):
                eps = _epsilon(x, scale)
                if eps is not None:
                    with module.graph.inserting_before(node):
                        fused = emit(module.graph, torch.ops.tt_edge.rms_normalize.default, x, eps, like=node)
                    replace(node, fused)
                    matches += 1
                    break
        return matches


def _epsilon(x: Any, scale: Any) -> float | None:
    """The epsilon, if ``scale`` is the reciprocal root mean square of ``x`` over its last dimension."""
    by_power = _is(scale, aten.pow.Tensor_Scalar) and scale.args[1] == -0.5
    if not (isinstance(x, Node) and (by_power or _is(scale, aten.rsqrt.default))):
        return None
    total = scale.args[0]
    if not _is(total, aten.add.Tensor) or not isinstance(total.args[1], float):
        return None
    mean = total.args[0]
    if not _is(mean, aten.mean.dim) or list(mean.args[2:3]) != [True]:
        return None
    if list(mean.args[1]) not in ([-1], [len(shape(x)) - 1]):
        return None
    square = mean.args[0]
    squared = _is(square, aten.pow.Tensor_Scalar) and square.args == (x, 2)
    return total.args[1] if squared or (_is(square, aten.mul.Tensor) and square.args == (x, x)) else None


def _is(node: Any, target: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target is target
