"""Give constants the rank of the tensor that they are broadcast to."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, add_constant, aten, calls, constant_of, shape

_BINARY = (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor)


class AlignConstants(LoweringPass):
    """Give constants the rank of the tensor that they are broadcast to.

    TensorRT broadcasts only between tensors of equal rank, so combining a ``[H]`` weight with a ``[B, S, H]`` activation
    costs a shuffle layer. A view of the weight costs nothing.

    Before::

        1. y = aten.mul(x, weight)             x is [B, S, H], weight is [H]

    After::

        1. y = aten.mul(x, weight_aligned)     [1, 1, H], sharing the weight's storage
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, *_BINARY):
            rank = len(shape(node))
            for argument in node.args[:2]:
                constant = constant_of(module, argument)
                if constant is None or constant.ndim >= rank:
                    continue
                assert isinstance(argument, Node)
                with graph.inserting_after(argument):
                    view = constant.reshape((1,) * (rank - constant.ndim) + tuple(constant.shape))
                    aligned = add_constant(module, f"{argument.name}_aligned", view)
                node.replace_input_with(argument, aligned)
                matches += 1
        return matches
