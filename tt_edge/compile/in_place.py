"""A lowered graph of the plugin backend as an engine runs it: its caches are updated in place. For running it in PyTorch."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

import tt_edge.plugins.ops.attention_plugin
import tt_edge.plugins.ops.int4_gemm_plugin
import tt_edge.plugins.ops.row_product  # noqa: F401  (all define operators)
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS
from tt_edge.plugins.ops import native

ops, aten = torch.ops.tt_edge, torch.ops.aten

#: Operators that stand for TensorRT layers, with PyTorch's operators in their place: a compiler sees through them.
_PLAIN = ("rms_normalize", "gather_last_token", "shuffle")


def run_in_place(module: GraphModule) -> GraphModule:
    """Change ``module`` so that it returns only the logits and updates the caches that it is given; returns it.

    Before::

        1. out, present = tt_edge.attention_plugin([qkv, past_key_values_0, …], …)
        2. return logits, present

    After::

        1. out = tt_edge.attention_plugin_in_place([qkv, …], past_key_values_0, …)
        2. return logits

    What TensorRT's builder does with the layers around the plugins is left to torch.compile, which needs PyTorch's operators in
    place of those that stand for layers. It does not join products of one input (queries, keys and values; gate and up), so they
    are joined here; and a product of one row is ``tt_edge.row_product``.
    """
    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    results: Any = output.args[0]
    output.args = (results[0],)
    for node in graph.find_nodes(op="call_function", target=ops.attention_plugin.default):
        inputs, version, *settings = node.args
        place = GENERATIONS[version].input_names.index(CACHE)
        rest, cache = [*inputs[:place], *inputs[place + 1 :]], inputs[place]
        with graph.inserting_before(node):
            out = graph.call_function(ops.attention_plugin_in_place.default, (rest, cache, version, *settings))
        _use_instead(node, out)
    _join(module, ops.linear.default, {1: 0, 2: 0})
    _join(module, ops.int4_groupwise_gemm.default, {1: 0, 2: 1})
    for node in graph.find_nodes(op="call_function", target=ops.linear.default):
        node.target = _linear
    for name in _PLAIN:
        for node in graph.find_nodes(op="call_function", target=getattr(ops, name).default):
            node.target = getattr(native, name)._init_fn
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return module


def _use_instead(node: Node, out: Node) -> None:
    """The first result of ``node`` is ``out``; the second, the cache, has no user any more."""
    for user in list(node.users):
        if user.args[1] == 0:
            user.replace_all_uses_with(out)
        user.graph.erase_node(user)
    node.graph.erase_node(node)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = ops.row_product(x, weight) if x.is_cuda and x.numel() == x.shape[-1] else x @ weight.T
    return y if bias is None else y + bias


def _join(module: GraphModule, target: Any, axes: dict[int, int]) -> None:
    """Make one product of those that have one input. ``axes`` has the axis of the weight's rows in each constant argument."""
    graph = module.graph
    groups: dict[Node, list[Node]] = {}
    for node in graph.find_nodes(op="call_function", target=target):
        groups.setdefault(node.args[0], []).append(node)
    for x, nodes in groups.items():
        constants = [[_constant(module, node, place) for place in axes] for node in nodes]
        given = [tuple(c is not None for c in row) for row in constants]
        if len(nodes) == 1 or len(set(given)) > 1 or not given[0][0]:
            continue
        with graph.inserting_before(nodes[0]):
            joined = [
                _add(module, f"{nodes[0].name}_{place}", torch.cat([row[i] for row in constants], axis))
                if given[0][i]
                else None
                for i, (place, axis) in enumerate(axes.items())
            ]
            whole = graph.call_function(target, (x, *joined, *nodes[0].args[len(axes) + 1 :]))
        sizes = [len(row[0]) * (2 if target is ops.int4_groupwise_gemm.default else 1) for row in constants]
        _divide(graph, whole, nodes, sizes)


def _divide(graph: Graph, whole: Node, nodes: list[Node], sizes: list[int]) -> None:
    """Parts of ``whole`` instead of ``nodes``; where they are only concatenated again, ``whole`` itself."""
    users = list(nodes[0].users)
    if users and users[0].target is aten.cat.default and list(users[0].args[0]) == nodes:  # type: ignore[arg-type]
        users[0].replace_all_uses_with(whole)
        graph.erase_node(users[0])
    with graph.inserting_after(whole):
        parts = graph.call_function(torch.split, (whole, sizes, -1))
    for index, node in enumerate(nodes):
        with graph.inserting_before(node):
            part = graph.call_function(operator.getitem, (parts, index))
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
