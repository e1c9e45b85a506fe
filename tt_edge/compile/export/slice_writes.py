"""Writes into a tensor and into slices of one, expressed by operators that return what was written."""

from __future__ import annotations

from collections.abc import Set
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


#: Operators that write their result into their first argument, and those that return it.
_IN_PLACE: dict[Any, Any] = {
    aten.add_.Tensor: aten.add.Tensor,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.div_.Tensor: aten.div.Tensor,
}


def replace_in_place(graph: Graph) -> None:
    """Express operators that write into a tensor that nothing else uses, such as ``hidden *= scale``; others stay.

    Before::

        1. x = aten.add(a, b)            used by step 2 only
        2. y = aten.mul_(x, scale)

    After::

        1. x = aten.add(a, b)
        2. y = aten.mul(x, scale)

    One that writes into a part, ``x[1:] += y``, becomes ``aten.copy_`` into the part, for ``replace_writes``.
    """
    for node in [each for each in graph.nodes if each.target in (*_IN_PLACE, aten.detach_.default)]:
        written = node.args[0]
        if node.target is aten.detach_.default:
            node.replace_all_uses_with(written)
            graph.erase_node(node)
            continue
        is_part = written.target in _PARTS
        others = [value(each) if isinstance(each, Node) else each for each in node.args[1:]]
        kept = all(torch.result_type(value(written), each) is value(written).dtype for each in others)
        if node.kwargs or not kept or not (is_part or _is_used_by(written, node)):
            continue
        with graph.inserting_before(node):
            result = emit(graph, _IN_PLACE[node.target], *node.args, like=node)
            if is_part:
                emit(graph, aten.copy_.default, written, result, like=node)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def _is_used_by(node: Node, user: Node) -> bool:
    """Whether nothing but ``user`` sees the memory of what ``node`` returns."""
    if node.op != "call_function" or node.target is torch.ops.tt_edge.layer_mark.default or set(node.users) != {user}:
        return False
    is_view = _aliases(node) or node.target is aten.type_as.default
    source = node.args[0]
    return not is_view or (isinstance(source, Node) and _is_used_by(source, node))


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
    places = {node: place for place, node in enumerate(graph.nodes)}
    last = {root: places[node] for node, root in roots.items()}  # the latest write of each
    behind = {root: {node for node, place in places.items() if place > last[root]} for root in last}
    if len(roots) < len(writes) or not all(_is_followed(node, root, behind[root]) for node, root in roots.items()):
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


def _is_followed(write: Node, root: Node, behind: Set[Node]) -> bool:
    """Whether a value of the same shape and type is written into a part of ``root``, of which there are no other views but those
    ``behind`` all writes.
    """
    part, source = write.args[0], write.args[1]
    if write.users or part is root or not isinstance(source, Node) or root.op != "call_function":
        return False
    same = shape(part) == shape(source) and value(part).dtype == value(source).dtype  # type: ignore[arg-type]
    is_own = not _aliases(root)
    if root.target is aten.type_as.default:  # its argument, where that has the type already
        is_own = isinstance(root.args[0], Node) and _is_used_by(root.args[0], root)
    return same and is_own and _has_parts_only(root, behind)


def _has_parts_only(node: Node, behind: Set[Node]) -> bool:
    return all(
        _has_parts_only(user, behind)
        if user.target in _PARTS
        else user in behind or user.op == "output" or user.target is aten.copy_.default or not _aliases(user)
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
