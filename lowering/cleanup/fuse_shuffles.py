"""Fuse reshapes and permutations into shuffle layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls, emit, replace, shape

_RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
)
_PERMUTES = (aten.transpose.int, aten.permute.default, aten.t.default)


@dataclass(frozen=True)
class _Shuffle:
    """Permute, reshape, permute: what one ``IShuffleLayer`` does."""

    first: tuple[int, ...]
    dims: tuple[int, ...]
    second: tuple[int, ...]

    @property
    def only_permutes(self) -> bool:
        return not any(self.dims) and len(self.dims) == len(self.first)


class FuseShuffles(LoweringPass):
    """Turn each run of views and transposes into one shuffle whose dynamic sizes are copied, not computed.

    Where a view names a dynamic size that its input has at the same index, the shuffle says 0 ("copy"). That removes
    the shape arithmetic (shape, gather, concatenation layers) that a size argument would become in the network.

    Before::

        1. a = aten.view(x, [B, S, -1, 64])     x is [B, S, 896]
        2. b = aten.transpose(a, 1, 2)

    After::

        1. b = tt_edge.shuffle(x, [0, 1, 2], [0, 0, 14, 64], [0, 2, 1, 3])
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        for node in calls(graph, *_RESHAPES, *_PERMUTES):
            source: Any = node.args[0]
            shuffle = _of(node) if isinstance(source, Node) and source.op != "get_attr" else None
            if shuffle is None:
                continue
            if source.target is torch.ops.tt_edge.shuffle.default and len(source.users) == 1:
                merged = _merge(_Shuffle(*map(tuple, source.args[1:4])), shuffle, source, node)
                if merged is not None:
                    source, shuffle = source.args[0], merged
            with graph.inserting_before(node):
                fused = emit(
                    graph,
                    torch.ops.tt_edge.shuffle.default,
                    source,
                    list(shuffle.first),
                    list(shuffle.dims),
                    list(shuffle.second),
                    like=node,
                )
            replace(node, fused)
            matches += 1
        return matches


def _of(node: Node) -> _Shuffle | None:
    source, result = shape(node.args[0]), shape(node)  # type: ignore[arg-type]
    rank = len(source)
    if node.target in _PERMUTES:
        order = _order(node, rank)
        return _Shuffle(order, (0,) * rank, tuple(range(rank)))
    dims = _dims(source, result)
    return None if dims is None else _Shuffle(tuple(range(rank)), dims, tuple(range(len(result))))


def _order(node: Node, rank: int) -> tuple[int, ...]:
    arguments: Any = node.args
    if node.target is aten.permute.default:
        return tuple(int(d) % rank for d in arguments[1])
    order = list(range(rank))
    i, j = (0, 1) if node.target is aten.t.default else (int(d) % rank for d in arguments[1:3])
    order[i], order[j] = order[j], order[i]
    return tuple(order)


def _dims(source: Sequence[Any], result: Sequence[Any]) -> tuple[int, ...] | None:
    """``result`` in a shuffle's terms: sizes, 0 to copy, one -1. ``None`` when more than one size must be computed."""
    dims: list[int] = []
    for index, size in enumerate(result):
        if isinstance(size, int):
            dims.append(size)
        elif index < len(source) and _same(size, source[index]):
            dims.append(0)
        else:
            dims.append(-1)
    return tuple(dims) if dims.count(-1) <= 1 else None


def _same(a: Any, b: Any) -> bool:
    """Equal as expressions; comparing the symbols themselves would ask for their example values."""
    return isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt) and bool(a.node.expr == b.node.expr)


def _merge(before: _Shuffle, after: _Shuffle, source: Node, node: Node) -> _Shuffle | None:
    """One shuffle for ``before`` then ``after``, if a single layer can do it."""
    if before.only_permutes:
        order = [before.first[i] for i in before.second]
        return _Shuffle(tuple(order[i] for i in after.first), after.dims, after.second)
    if after.only_permutes:
        return _Shuffle(before.first, before.dims, tuple(before.second[i] for i in after.first))
    if before.second == tuple(range(len(before.second))):
        original = shape(source.args[0])  # type: ignore[arg-type]
        dims = _dims([original[i] for i in before.first], shape(node))
        return None if dims is None else _Shuffle(before.first, dims, after.second)
    return None
