"""T5's relative position bias, as numbers that also hide the keys after a query."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import RELATIVE_BIAS, AttentionCall
from tt_edge.lowering.base import add_constant, constant_of, emit

ops = torch.ops.tt_edge


def bias_table(module: GraphModule, bias: Node) -> torch.Tensor:
    """The table ``[2 * N - 1, H]`` of a ``relative_bias``. Raises ``UnsupportedModelError`` for any other bias."""
    table = constant_of(module, bias.args[0]) if bias.target is RELATIVE_BIAS else None
    if table is None:
        raise UnsupportedModelError(
            f"the model adds a bias to attention scores that is not T5's ({bias.target}), which no backend has"
        )
    return table


def check_bias(call: AttentionCall) -> None:
    """Raise ``UnsupportedModelError`` for attention with a bias that is also limited in another way."""
    if call.bias is not None and (call.window is not None or call.softcap is not None):
        raise UnsupportedModelError(
            "the model has attention with a position bias and a sliding window or softcap, which no backend has"
        )


class CausalBias:
    """The bias of a decoder's self-attention, shared by the layers that share it in the model.

    Before::

        1. bias = tt_edge.relative_bias(table, S, S)                                  [1, H, S, S]

    After::

        1. bias = tt_edge.relative_rows(causal, input_ids, start, end, capacity)      [B or 1, H, S, T]

    ``causal`` has the rows of ``table`` for keys up to the query, and after them one with the lowest number of the type, for
    all keys after it. So the sum with the scores is causal, and exact at any past.
    """

    def __init__(self, module: GraphModule, tokens: Node, start: Node | None, end: Node | None, capacity: int) -> None:
        self._module, self._place = module, (tokens, start, end, capacity)
        self._made: dict[Node, Node] = {}

    def mask(self, bias: Node) -> Node:
        """The numbers to add to the scores, in place of ``bias``."""
        if bias not in self._made:
            table = bias_table(self._module, bias)
            past = table[: table.shape[0] // 2 + 1]
            never = torch.full_like(past[:1], torch.finfo(table.dtype).min)
            constant = add_constant(self._module, "relative_bias", torch.cat([past, never]))
            arguments: tuple[Any, ...] = (constant, *self._place, len(past) - 1)
            self._made[bias] = emit(bias.graph, ops.relative_rows.default, *arguments, origin=bias)
        return self._made[bias]
