"""RoPE by position, from tables baked out of the model's own rotary module."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import LoweringError
from tt_edge.lowering.base import LoweringContext, LoweringPass, add_constant, calls, emit, placeholder


class RotaryTables(LoweringPass):
    """Replace computed cosines and sines by lookups, in the form of ``IRotaryEmbeddingLayer``.

    The tables are what the exported graph itself computes for positions 0 … max_seq_len-1, evaluated once here. So
    every RoPE type (linear, llama3, yarn, …) has the model's own frequencies and attention scaling, by construction.

    Before::

        1. cos, sin = … position_ids … inv_freq …              [B, S, R]
        2. y = tt_edge.rotary_embedding(x, cos, sin)

    After::

        1. y = tt_edge.rotary_from_table(x, cos_table, sin_table, position_ids)    tables [max_seq_len, R / 2]
    """

    name = "rotary_tables"

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches = module.graph, 0
        tables: dict[tuple[Any, Any], tuple[Node, Node]] = {}
        positions = placeholder(graph, "position_ids")
        for node in calls(graph, torch.ops.tt_edge.rotary_embedding.default):
            x, cos, sin, *interleaved = node.args
            if (cos, sin) not in tables:
                halves = [tabulate(module, angle, context.config.max_seq_len) for angle in (cos, sin)]
                with graph.inserting_before(positions):
                    tables[cos, sin] = (
                        add_constant(module, "rotary_cos", halves[0]),
                        add_constant(module, "rotary_sin", halves[1]),
                    )
            with graph.inserting_before(node):
                rotated = emit(
                    graph,
                    torch.ops.tt_edge.rotary_from_table.default,
                    x,
                    *tables[cos, sin],
                    positions,
                    *interleaved,
                    like=node,
                )
            node.replace_all_uses_with(rotated)
            graph.erase_node(node)
            matches += 1
        return matches


def tabulate(module: GraphModule, angle: Any, length: int) -> torch.Tensor:
    """``[length, R / 2]``: the first half of ``angle``'s columns for positions 0 … length-1."""
    inputs = {"position_ids": torch.arange(length)[None], "input_ids": torch.zeros(1, length, dtype=torch.int64)}
    full = _evaluate(module, angle, inputs)
    if full.ndim != 3 or full.shape[:2] != (1, length):
        raise LoweringError(f"the rotary table has shape {tuple(full.shape)}, not (1, {length}, rotary_dim)")
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
