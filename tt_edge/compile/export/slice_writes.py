"""Writes into slices of a tensor, expressed by operators that return what was written."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from tt_edge.compile.export.layer_copies import mutates
from tt_edge.lowering.base import emit, shape, value

aten = torch.ops.aten

#: What makes a part of a tensor, and what puts a part back.
_PARTS: dict[Any, Any] = {
    aten.select.int: aten.select_scatter.default,
    aten.slice.Tensor: aten.slice_scatter.default,
}


def replace_writes(graph: Graph) -> bool:
    """Express every write of ``graph``, if all are into slices of tensors that nothing else aliases; whether it did.

    Before::

        1. part = aten.slice(aten.select(x, 0, 0), 2, 1, 9, 3)
        2. aten.copy_(part, y)
        3. z = f(aten.select(x, 0, 0))

    After::

        1. row = aten.slice_scatter(aten.select(x, 0, 0), y, 2, 1, 9, 3)
        2. written = aten.select_scatter(x, row, 0, 0)
        3. z = f(aten.select(written, 0, 0))

    It is what ``ExportedProgram.run_decompositions({})`` makes of them, which traces everything again: 1.4 of the 3 seconds of a
    tiny Qwen3-VL. Where it says no, the graph is as it was.
    """
    writes = [node for node in graph.nodes if mutates(node)]
    roots = {node: _root(node.args[0]) for node in writes if node.target is aten.copy_.default}
    if len(roots) < len(writes) or not all(_is_followed(node, root) for node, root in roots.items()):
        return False
    latest: dict[Node, Node] = {}  # of each root, the tensor with all that was written so far
    for node in list(graph.nodes):
        if node.target in _PARTS:
            continue  # made anew where it is used
        used = [each for each in node.all_input_nodes if _root(each) in latest]
        with graph.inserting_before(node):
            for each in used:
                node.replace_input_with(each, _again(graph, each, latest))
            if node in roots:
                root = roots[node]
                latest[root] = _written(graph, node.args[0], node.args[1], latest)  # type: ignore[arg-type]
                graph.erase_node(node)
    graph.eliminate_dead_code()
    return True


def _root(node: Any) -> Node:
    """The tensor of which ``node`` is a part; or itself."""
    found: Node = node
    while found.target in _PARTS:
        found = found.args[0]  # type: ignore[assignment]
    return found


def _is_followed(write: Node, root: Node) -> bool:
    """Whether a value of the same shape and type is written into a part of ``root``, of which there are no other views."""
    part, source = write.args[0], write.args[1]
    if write.users or part is root or not isinstance(source, Node) or root.op != "call_function":
        return False
    same = shape(part) == shape(source) and value(part).dtype == value(source).dtype  # type: ignore[arg-type]
    return same and not _aliases(root) and _has_parts_only(root)


def _has_parts_only(node: Node) -> bool:
    return all(
        _has_parts_only(user)
        if user.target in _PARTS
        else user.op == "output" or user.target is aten.copy_.default or not _aliases(user)
        for user in node.users
    )


def _aliases(node: Node) -> bool:
    """Whether what ``node`` returns may be the memory of an argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(each.alias_info is not None for each in schema.returns)


def _again(graph: Graph, node: Node, latest: dict[Node, Node]) -> Node:
    """``node``, a part, of the latest state of its tensor."""
    if node.target not in _PARTS:
        return latest[node]
    arguments: tuple[Any, ...] = node.args
    first, *rest = arguments
    target: Any = node.target
    return emit(graph, target, _again(graph, first, latest), *rest, origin=node)


def _written(graph: Graph, part: Node, source: Node, latest: dict[Node, Node]) -> Node:
    """The whole tensor of ``part`` with ``source`` in its place."""
    while part.target in _PARTS:
        arguments: tuple[Any, ...] = part.args
        whole, *rest = arguments
        before = _again(graph, whole, latest) if _root(whole) in latest else whole
        source = emit(graph, _PARTS[part.target], before, source, *rest, origin=part)
        part = whole
    return source
