"""RoPE from tables by position, which the model's own rotary module computes at compile time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import LoweringError
from tt_edge.lowering.base import LoweringContext, LoweringPass, add_constant, calls, emit, placeholder, replace, shape

ops = torch.ops.tt_edge


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
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        sources: dict[tuple[Any, Any], tuple[Any, ...]] = {}
        positions = placeholder(graph, "position_ids")
        for node in calls(graph, ops.rotary_embedding.default):
            x, cos, sin, *interleaved = node.args
            if (cos, sin) not in sources:
                tables = [tabulate(module, angle, context.config.limits.max_seq_len) for angle in (cos, sin)]
                with graph.inserting_before(node):
                    names = ("rotary_cos", "rotary_sin")
                    constants = [add_constant(module, n, t.rows) for n, t in zip(names, tables, strict=True)]
                    if tables[0].axes is not None:
                        constants = [
                            emit(graph, ops.axis_rows.default, constant, positions, table.axes)
                            for constant, table in zip(constants, tables, strict=True)
                        ]
                sources[cos, sin] = (*constants, *([positions] if tables[0].axes is None else []))
            operands = sources[cos, sin]
            target = ops.rotary_from_table if len(operands) == 3 else ops.rotary_from_rows
            with graph.inserting_before(node):
                rotated = emit(graph, target.default, x, *operands, *interleaved, like=node)
            replace(node, rotated)
            matches += 1
        return matches


@dataclass(frozen=True)
class AngleTable:
    """Cosines or sines by position, ``[length, R / 2]``; ``axes`` is the position axis that each column depends on."""

    rows: torch.Tensor
    axes: list[int] | None = None


def tabulate(module: GraphModule, angle: Any, length: int) -> AngleTable:
    """The first half of ``angle``'s columns for positions 0 … length-1. Raises ``LoweringError`` if it has no table form."""
    positions = torch.arange(length)[None]
    sizes = shape(placeholder(module.graph, "position_ids"))
    if len(sizes) == 2:
        return AngleTable(_half(_angles(module, angle, positions)))
    axes = int(sizes[0])
    rows = _half(_angles(module, angle, positions.expand(axes, 1, length)))
    # Use different positions on every axis: then a column equals the values of only the axis that it depends on.
    shuffled = torch.stack([torch.randperm(length, generator=_seeded(axis)) for axis in range(axes)])
    mixed = _half(_angles(module, angle, shuffled[:, None]))
    follows = torch.stack([(rows[shuffled[axis]] == mixed).all(0) for axis in range(axes)])  # [axes, R / 2]
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


def _half(full: torch.Tensor) -> torch.Tensor:
    half = full.shape[2] // 2
    if not torch.equal(full[..., :half], full[..., half:]):
        raise LoweringError("the rotary module's cosines do not repeat in halves; this RoPE layout is not supported")
    return full[0, :, :half].contiguous()


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
