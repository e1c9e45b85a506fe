"""What TensorRT's builder does with the linear layers of a network, for running a lowered graph in PyTorch.

Products of one input become one (queries, keys and values; gate and up), and a product takes its neighbours with it: RMSNorm, gate,
residual.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

import tt_edge.plugins.ops.int4_gemm_plugin
import tt_edge.plugins.ops.row_product  # noqa: F401  (both define operators)

ops, aten = torch.ops.tt_edge, torch.ops.aten

_LINEAR, _INT4 = ops.linear.default, ops.int4_groupwise_gemm.default
_INPUT, _WEIGHT, _BIAS = range(3)


def join_products(module: GraphModule) -> None:
    """Make one product of those that have one input.

    Before::

        1. q, k, v = tt_edge.linear(x, a), tt_edge.linear(x, b), tt_edge.linear(x, c)
        2. qkv = aten.cat([q, k, v], -1)

    After::

        1. qkv = tt_edge.linear(x, cat([a, b, c]))

    Where the parts are not concatenated, they are split off. INT4 products likewise.
    """
    # The axis of the weight's rows in each constant argument.
    _join(module, _LINEAR, {_WEIGHT: 0, _BIAS: 0})
    _join(module, _INT4, {1: 0, 2: 1})


def fuse_neighbours(module: GraphModule) -> None:
    """Make each linear layer one ``row_product`` with the norm before it, and the gate or the residual after it."""
    graph = module.graph
    for node in graph.find_nodes(op="call_function", target=_LINEAR):
        x, norm, eps = _without_norm(node.args[_INPUT])
        gate = _gate_of(node)
        last = gate or node
        residual, end = _residual_of(last)
        bias = node.args[_BIAS] if len(node.args) > _BIAS else None
        with graph.inserting_before(end):
            if norm is not None:
                norm = graph.call_function(torch.flatten, (norm,))
            fused = graph.call_function(
                ops.row_product.default, (x, node.args[_WEIGHT], bias, residual, norm, eps, gate is not None)
            )
        fused.meta["val"] = end.meta["val"]
        end.replace_all_uses_with(fused)
    graph.eliminate_dead_code()


def _without_norm(x: Any) -> tuple[Any, Node | None, float]:
    """The input of ``weight * round(rms_normalize(widen(x)))``, its weight and epsilon; else ``x`` itself."""
    if not _calls(x, aten.mul.Tensor):
        return x, None, 0.0
    for weight, rounded in (x.args[:2], x.args[1::-1]):
        if not (isinstance(weight, Node) and weight.op == "get_attr" and _calls(rounded, aten._to_copy.default)):
            continue
        core = rounded.args[0]
        if not _calls(core, ops.rms_normalize.default) or not _calls(core.args[0], aten._to_copy.default):
            continue
        source = core.args[0].args[0]
        if source.meta["val"].dtype == x.meta["val"].dtype == weight.meta["val"].dtype:
            return source, weight, core.args[1]
    return x, None, 0.0


def _gate_of(node: Node) -> Node | None:
    """``silu(first half) * second half``, if that is all that happens to a product."""
    (parts, *others) = node.users
    if others or parts.target is not torch.split or len(parts.users) != 2:
        return None
    halves = {int(user.args[1]): user for user in parts.users}  # type: ignore[arg-type]
    if len(set(parts.args[1])) != 1 or any(len(half.users) != 1 for half in halves.values()):  # type: ignore[arg-type]
        return None
    (active,) = halves[0].users
    (product,) = halves[1].users
    silu = _calls(active, aten.silu.default)
    return product if silu and _calls(product, aten.mul.Tensor) and set(product.args) == {active, halves[1]} else None


def _residual_of(node: Node) -> tuple[Node | None, Node]:
    """What is added to ``node``, and the node that adds it; ``None`` and ``node`` if nothing of its shape is."""
    (user, *others) = node.users
    if others or not _calls(user, aten.add.Tensor) or user.kwargs or len(user.all_input_nodes) != 2:
        return None, node
    (other,) = [argument for argument in user.args if argument is not node]
    same = isinstance(other, Node) and other.op != "get_attr" and other.meta["val"].shape == user.meta["val"].shape
    return (other, user) if same and other.meta["val"].dtype == user.meta["val"].dtype else (None, node)  # type: ignore[union-attr, return-value]


def _calls(node: Any, target: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target is target


def _join(module: GraphModule, target: Any, axes: dict[int, int]) -> None:
    graph = module.graph
    groups: dict[Any, list[Node]] = {}
    for node in graph.find_nodes(op="call_function", target=target):
        groups.setdefault(node.args[_INPUT], []).append(node)
    for x, nodes in groups.items():
        constants = [[_constant(module, node, place) for place in axes] for node in nodes]
        given = [tuple(c is not None for c in row) for row in constants]
        if len(nodes) == 1 or len(set(given)) > 1 or not given[0][0]:
            continue
        joined: list[Node | None] = []
        with graph.inserting_before(nodes[0]):
            for index, (place, axis) in enumerate(axes.items()):
                parts = [row[index] for row in constants if row[index] is not None]
                name = f"{nodes[0].name}_{place}"
                joined.append(_add(module, name, torch.cat(parts, axis)) if parts else None)  # type: ignore[arg-type]
            whole = graph.call_function(target, (x, *joined, *nodes[0].args[len(axes) + 1 :]))
        rows = [int(node.meta["val"].shape[-1]) for node in nodes]
        whole.meta["val"] = nodes[0].meta["val"].new_empty(*nodes[0].meta["val"].shape[:-1], sum(rows))
        _divide(graph, whole, nodes, rows)


def _divide(graph: Graph, whole: Node, nodes: list[Node], rows: list[int]) -> None:
    """Parts of ``whole`` instead of ``nodes``; where they are only concatenated again, ``whole`` itself."""
    for user in list(nodes[0].users):
        if user.target is aten.cat.default and list(user.args[0]) == nodes:  # type: ignore[arg-type]
            user.replace_all_uses_with(whole)
            graph.erase_node(user)
    if not any(node.users for node in nodes):
        for node in nodes:
            graph.erase_node(node)
        return
    with graph.inserting_after(whole):
        parts = graph.call_function(torch.split, (whole, rows, -1))
    for index, node in enumerate(nodes):
        with graph.inserting_before(node):
            part = graph.call_function(operator.getitem, (parts, index))
        part.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(part)
        graph.erase_node(node)


def _constant(module: GraphModule, node: Node, place: int) -> Tensor | None:
    argument = node.args[place] if place < len(node.args) else None
    if not isinstance(argument, Node) or argument.op != "get_attr":
        return None
    found: Any = module
    for part in str(argument.target).split("."):
        found = getattr(found, part)
    return found.detach() if isinstance(found, Tensor) else None


def _add(module: GraphModule, name: str, tensor: Tensor) -> Node:
    module.register_buffer(name, tensor, persistent=False)
    return module.graph.get_attr(name)
