"""Copies of a traced layer in a graph: marks show where it begins and ends, and where copies of it belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

#: A traced layer in the graph: the mark of its beginning, the nodes up to its end, and the mark there.
Body: TypeAlias = tuple[Node, list[Node], Node]
#: The nodes of another layer's weights, by the nodes of the first one's.
Replacements: TypeAlias = Mapping[Node | None, Node | None]


class RepetitionError(Exception):
    """A layer that was taken for one of its kind is not; the whole module has to be traced."""


@torch.library.custom_op("tt_edge::layer_mark", mutates_args=())
def layer_mark(hidden: Tensor, role: str, number: int, arguments: Sequence[Tensor]) -> Tensor:
    """Marks in a traced graph: where the traced call ``number`` begins or ends, or instead of copy ``number`` (``again``).

    ``arguments`` are the call's other tensors, where it begins.
    """
    return hidden.clone()


@layer_mark.register_fake
def _(hidden: Tensor, role: str, number: int, arguments: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(hidden)


def check_writes(graph: Graph) -> None:
    """Raise ``RepetitionError`` if something is written to after the first mark: an argument of two equal calls may differ."""
    is_marked = False
    for node in graph.nodes:
        is_marked |= node.target is torch.ops.tt_edge.layer_mark.default
        if is_marked and mutates(node):
            raise RepetitionError(f"{node.name} writes to its arguments")


def mutates(node: Node) -> bool:
    """Whether ``node`` writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def form(tensor: Tensor) -> tuple[str, ...]:
    """Shape, strides and type; sizes as text, because comparing symbols would constrain them."""
    return str(tuple(tensor.shape)), str(tuple(tensor.stride())), str(tensor.dtype), str(tensor.device)


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), *form(tensor)


def bodies_of(graph: Graph, marks: Sequence[Node]) -> dict[int, Body]:
    """By the number of the traced call."""
    begins = {mark.args[2]: mark for mark in marks if mark.args[1] == "begin"}
    bodies: dict[Any, Body] = {}
    for end in (mark for mark in marks if mark.args[1] == "end"):
        begin, body = begins[end.args[2]], []
        node = begin.next
        while node is not end:
            if node.op != "call_function" or "unbacked_bindings" in node.meta:
                raise RepetitionError(f"a layer has {node.format_node()}, which cannot be repeated")
            body.append(node)
            node = node.next
        bodies[end.args[2]] = begin, body, end
    return bodies


class Weights:
    """The nodes of a graph that hold weights, found by the memory of a tensor."""

    def __init__(self, module: GraphModule) -> None:
        nodes = module.graph.find_nodes(op="get_attr")
        self._nodes = {_storage(attrgetter(str(node.target))(module)): node for node in nodes}

    def in_place_of(self, first: Sequence[Tensor], own: Sequence[Tensor]) -> Replacements:
        """The nodes of a layer's ``own`` tensors by those of the ``first`` layer's; ``None`` stands for one without a node.

        Raises ``RepetitionError`` where one tensor would be replaced by two.
        """
        found: dict[Node | None, Node | None] = {}
        for old, new in zip(first, own, strict=True):
            node = self._nodes.get(_storage(new))
            if found.setdefault(self._nodes.get(_storage(old)), node) is not node:
                raise RepetitionError("weights that are one tensor in a layer are two in another")
        return found


def _is_computed_once(node: Node, copies: Mapping[Node, Node]) -> bool:
    """Whether ``node`` is a size that the exporter computes once for all layers."""
    return isinstance(node.meta.get("val"), torch.SymInt) and copies.keys().isdisjoint(node.all_input_nodes)


def is_copy(first: Body, second: Body, weights: Replacements) -> bool:
    """Whether ``second`` has the nodes of ``first``, with other ``weights``."""
    (begin, nodes, end), (other_begin, others, other_end) = first, second
    copies: dict[Node, Node] = {begin: other_begin}
    remaining = iter(others)

    def copied(node: Node) -> Node | None:
        return weights[node] if node in weights else copies.get(node, node)

    for node in nodes:
        if _is_computed_once(node, copies):
            continue
        other = next(remaining, None)
        if other is None or other.target is not node.target:
            return False
        if map_arg((node.args, node.kwargs), copied) != (other.args, other.kwargs):
            return False
        copies[node] = other
    is_same_end = copied(end.args[0]) is other_end.args[0]  # type: ignore[arg-type]
    return is_same_end and next(remaining, None) is None


def insert_copy(
    graph: Graph,
    body: Body,
    mark: Node,
    weights: Replacements,
    paths: tuple[str, str],
) -> None:
    """Put a copy of ``body`` in the place of ``mark``, with other ``weights`` and another path of the layer."""
    begin, nodes, end = body
    arguments: list[Node] = list(begin.args[3])  # type: ignore[arg-type]
    own = {begin, *nodes, *arguments, *weights}
    if any(weights.get(argument, argument) is not argument for argument in arguments):
        raise RepetitionError("a layer's weight is an argument of the others")
    for node in (*nodes, end):
        if strange := [n for n in node.all_input_nodes if n not in own and isinstance(n.meta.get("val"), Tensor)]:
            raise RepetitionError(f"a layer uses {strange[0]}, which is neither its weight nor an argument")
    copies: dict[Node, Node] = {begin: mark.args[0]}  # type: ignore[dict-item]

    def copied(node: Node) -> Node:
        if node in weights:
            own = weights[node]
            if own is None:
                raise RepetitionError(f"a weight like {node.target} is not in the graph")
            return own
        return copies.get(node, node)

    with graph.inserting_before(mark):
        for node in nodes:
            if _is_computed_once(node, copies):
                continue
            copy = copies[node] = graph.node_copy(node, copied)
            copy.meta["nn_module_stack"] = {
                key.replace(*paths): (path.replace(*paths, 1) if path.startswith(paths[0]) else path, kind)
                for key, (path, kind) in node.meta.get("nn_module_stack", {}).items()
            }
    mark.replace_all_uses_with(copied(end.args[0]))  # type: ignore[arg-type]
    graph.erase_node(mark)
