"""RoPE from tables by position, which the model's own rotary module computes at compile time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import LoweringError
from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_constant,
    aten,
    calls,
    emit,
    placeholder,
    replace,
    shape,
)
from tt_edge.lowering.decoder.expand_rotary import rotate

ops = torch.ops.tt_edge

_NO_HALVES = "the rotary module's cosines do not repeat in halves; this RoPE layout is not supported"


class TabulateRotary(LoweringPass):
    """Replace computed cosines and sines by lookups, in the form of ``IRotaryEmbeddingLayer``.

    The tables are what the exported graph itself computes for positions 0 … max_seq_len-1, evaluated once here. So
    every RoPE type (linear, llama3, yarn, …) has the model's own frequencies and attention scaling, by construction.

    Before::

        1. cos, sin = … position_ids … inv_freq …              [B, S, R]
        2. y = tt_edge.rotary_embedding(x, cos, sin)

    After::

        1. y = tt_edge.rotary_from_table(x, cos_table, sin_table, position_ids)    tables [max_seq_len, R / 2]

    With M-RoPE, where ``position_ids`` are ``[3, B, S]`` and each frequency follows one axis, the rows are looked up
    once for all layers::

        1. cos, sin = tt_edge.axis_rows(cos_table, position_ids, axes), …          [B, S, R / 2]
        2. y = tt_edge.rotary_from_rows(x, cos, sin)

    Where the two numbers of a pair follow different axes (HunyuanOCR), their angles differ, which the layer does not have::

        1. cos, sin = tt_edge.axis_rows(cos_table, position_ids, axes), …          [B, S, R]
        2. a, b = x[..., : R / 2], x[..., R / 2 : R]
        3. y = aten.cat([a * cos_a - b * sin_a, b * cos_b + a * sin_b, x[..., R :]], -1)
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        rotations: dict[tuple[Any, Any], Rotation] = {}
        for node in calls(graph, ops.rotary_embedding.default):
            x, cos, sin, *interleaved = node.args
            if (cos, sin) not in rotations:
                with graph.inserting_before(node):
                    rotations[cos, sin] = _rotation(module, cos, sin, context.config.limits.max_seq_len)
            with graph.inserting_before(node):
                rotated = rotations[cos, sin](node, x, *interleaved)
            replace(node, rotated)
            matches += 1
        return matches


#: Emits, for a call of the rotation, of ``x``, interleaved or not, what stands in its place.
Rotation = Callable[..., Node]


def _rotation(module: GraphModule, cos: Any, sin: Any, length: int) -> Rotation:
    """What is common to all calls with these angles is emitted here."""
    graph, positions = module.graph, placeholder(module.graph, "position_ids")
    tables = [_table(module, angle, length) for angle in (cos, sin)]
    if repeating := all(table.repeats for table in tables):
        tables = [table.half() for table in tables]
    elif tables[0].axes is None:
        raise LoweringError(_NO_HALVES)
    constants = [add_constant(module, n, t.rows) for n, t in zip(("rotary_cos", "rotary_sin"), tables, strict=True)]
    if tables[0].axes is None:
        return lambda node, x, *more: emit(
            graph, ops.rotary_from_table.default, x, *constants, positions, *more, like=node
        )
    rows = [
        emit(graph, ops.axis_rows.default, constant, positions, table.axes)
        for constant, table in zip(constants, tables, strict=True)
    ]
    if repeating:
        return lambda node, x, *more: emit(graph, ops.rotary_from_rows.default, x, *rows, *more, like=node)
    wide = [emit(graph, aten.unsqueeze.default, each, 1) for each in rows]
    size = int(shape(wide[0])[-1])
    own, others = (
        tuple(emit(graph, aten.slice.Tensor, each, -1, start, start + size // 2) for each in wide)
        for start in (0, size // 2)
    )

    def rotated(node: Node, x: Node, interleaved: bool = False) -> Node:
        if interleaved:
            raise LoweringError(_NO_HALVES)
        return rotate(graph, node, x, (own[0], own[1]), (others[0], others[1]))

    return rotated


@dataclass(frozen=True)
class AngleTable:
    """Cosines or sines by position, ``[length, R]``; ``axes`` is the position axis that each column depends on."""

    rows: torch.Tensor
    axes: list[int] | None = None

    @property
    def repeats(self) -> bool:
        """Whether the second half of the columns is the first."""
        half = self.rows.shape[1] // 2
        same = torch.equal(self.rows[:, :half], self.rows[:, half:])
        return same and (self.axes is None or self.axes[:half] == self.axes[half:])

    def half(self) -> AngleTable:
        """The first half of the columns."""
        half = self.rows.shape[1] // 2
        return AngleTable(self.rows[:, :half].contiguous(), None if self.axes is None else self.axes[:half])


def tabulate(module: GraphModule, angle: Any, length: int) -> AngleTable:
    """The first half of ``angle``'s columns for positions 0 … length-1. Raises ``LoweringError`` if it has no table form."""
    table = _table(module, angle, length)
    if not table.repeats:
        raise LoweringError(_NO_HALVES)
    return table.half()


def _table(module: GraphModule, angle: Any, length: int) -> AngleTable:
    """All of ``angle``'s columns for positions 0 … length-1."""
    positions = torch.arange(length)[None]
    sizes = shape(placeholder(module.graph, "position_ids"))
    if len(sizes) == 2:
        return AngleTable(_angles(module, angle, positions)[0])
    axes = int(sizes[0])
    rows = _angles(module, angle, positions.expand(axes, 1, length))[0]
    # Use different positions on every axis: then a column equals the values of only the axis that it depends on.
    shuffled = torch.stack([torch.randperm(length, generator=_seeded(axis)) for axis in range(axes)])
    mixed = _angles(module, angle, shuffled[:, None])[0]
    follows = torch.stack([(rows[shuffled[axis]] == mixed).all(0) for axis in range(axes)])  # [axes, R]
    if not follows.any(0).all():
        raise LoweringError(
            "a rotary frequency follows no single one of a position's numbers; this RoPE is not supported"
        )
    return AngleTable(rows, follows.to(torch.uint8).argmax(0).tolist())


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _angles(module: GraphModule, angle: Any, positions: torch.Tensor) -> torch.Tensor:
    """``angle`` for ``positions`` ``[…, 1, length]``: ``[1, length, R]``."""
    length = positions.shape[-1]
    inputs = {"position_ids": positions, "input_ids": torch.zeros(1, length, dtype=torch.int64)}
    full = _evaluate(module, angle, inputs)
    if full.ndim != 3 or full.shape[:2] != (1, length):
        raise LoweringError(f"the rotary table has shape {tuple(full.shape)}, not (1, {length}, rotary_dim)")
    return full


def _evaluate(module: GraphModule, target: Node, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run only the part of the graph that ``target`` depends on, which must be positions and constants."""
    needed: set[Node] = set()
    stack = [target]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed.add(node)
        stack.extend(node.all_input_nodes)
    results: dict[Node, Any] = {}
    interpreter = torch.fx.Interpreter(module)
    for node in module.graph.nodes:
        if node not in needed:
            continue
        if node.op == "placeholder":
            if node.target not in inputs:
                raise LoweringError(f"the rotary angles depend on {node.target}, so they cannot be tabulated")
            results[node] = inputs[node.target]
        elif node.op == "get_attr":
            results[node] = interpreter.fetch_attr(node.target)
        elif node.target is torch.ops.aten.embedding.default:
            raise LoweringError("the rotary angles depend on the tokens' embeddings, so they cannot be tabulated")
        else:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), results.__getitem__)
            results[node] = node.target(*args, **kwargs)
    result: torch.Tensor = results[target]
    return result
