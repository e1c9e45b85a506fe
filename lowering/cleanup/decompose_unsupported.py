"""Replace operators without a converter by operators that have one."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, fake_mode, value


class DecomposeUnsupported(LoweringPass):
    """Decompose only operators without a converter, node by node; does nothing if the context has no converters.

    ``ExportedProgram.run_decompositions`` has the same result but traces the whole graph again; on a 24-layer decoder that
    took 6.5 s of a 44 s compile. Here only single nodes are traced.

    Before::

        1. y = aten.addcmul(a, b, c)       no converter

    After::

        1. t = aten.mul(b, c)
        2. y = aten.add(a, t)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        if (converters := context.converters) is None:
            return 0
        matches, table = 0, {**converters.decompositions, **_OWN}
        waiting = [node for node in module.graph.nodes if node.op == "call_function"]
        while waiting:
            node = waiting.pop()
            if node.target is operator.getitem or converters.supports(node):
                continue  # handled with the operator that returns several results
            if node.target not in table and not _is_composite(node.target):
                raise UnsupportedModelError(
                    f"operator {node.target} has neither a TensorRT converter nor a decomposition; "
                    "please report the model type"
                )
            waiting += inline(module, node, node.target, table)  # type: ignore[arg-type]
            matches += 1
        return matches


def _deviation(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """``aten.std.correction``, computed in fp32 as PyTorch does (Gemma 3n's sparse activation)."""
    dims = list(dim) if dim else list(range(x.ndim))
    count = math.prod(x.shape[each] for each in dims) - (1 if correction is None else correction)
    centred = x.float() - x.float().mean(dims, keepdim=True)
    return torch.sqrt((centred * centred).sum(dims, keepdim=keepdim) / count).to(x.dtype)


#: Operators whose decomposition in PyTorch ends in primitives without a converter.
_OWN: dict[Any, Callable[..., Any]] = {aten.std.correction: _deviation}


def _is_composite(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._can_decompose()


def inline(
    module: GraphModule, node: Node, function: Callable[..., Any], table: Mapping[Any, Callable[..., Any]]
) -> list[Node]:
    """Replace ``node`` by the trace of ``function``, with its arguments, decomposed by ``table``; return the new calls."""
    graph = module.graph
    inputs = list(node.all_input_nodes)

    def call(*tensors: Any) -> Any:
        by_node = dict(zip(inputs, tensors, strict=True))
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), by_node.__getitem__)
        return function(*args, **kwargs)

    with fake_mode(graph):
        # Nodes of repeated layers share one fake tensor, which the trace would take for one input.
        values = (value(n) for n in inputs)
        given = [each.detach() if isinstance(each, torch.Tensor) else each for each in values]
        traced = make_fx(call, decomposition_table=dict(table), pre_dispatch=False)(*given)
    mapping = dict(zip(traced.graph.find_nodes(op="placeholder"), inputs, strict=True))
    with graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op in ("placeholder", "output"):
                continue
            mapping[inner] = graph.node_copy(inner, mapping.__getitem__)
    (result,) = traced.graph.output_node().args
    if isinstance(result, Node):
        node.replace_all_uses_with(mapping[result])
    else:  # several results: users are getitem calls
        for user in list(node.users):
            user.replace_all_uses_with(mapping[result[user.args[1]]])  # type: ignore[index]
            graph.erase_node(user)
    graph.erase_node(node)
    return [new for new in mapping.values() if new.op == "call_function" and new not in inputs]
