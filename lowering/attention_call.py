"""A typed view of ``tt_edge::attention`` in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

import tt_edge.plugins.ops.semantic  # noqa: F401  (defines the operator)
from tt_edge.lowering.base import calls

ATTENTION = torch.ops.tt_edge.attention.default
MERGED_ATTENTION = torch.ops.tt_edge.merged_attention.default
RELATIVE_BIAS = torch.ops.tt_edge.relative_bias.default


@dataclass(frozen=True)
class AttentionCall:
    """One call of ``tt_edge::attention``: its operands, and its settings, which are ``None`` if off.

    ``query`` is ``[B, Hq, S, D]``, ``key`` and ``value`` are ``[B, Hkv, S, D]``. ``window`` counts the tokens that a query
    sees, itself included, and ``ahead`` those after it in a window that is not causal; ``softcap`` bounds scores; ``sinks`` is
    ``[Hq]``; ``bias`` ``[1, Hq, S, T]`` is added to the scores.
    """

    node: Node
    query: Node
    key: Node
    value: Node
    scale: float
    causal: bool
    window: int | None
    softcap: float | None
    sinks: Node | None
    bias: Node | None = None
    ahead: int = 0

    @classmethod
    def of(cls, node: Node) -> AttentionCall:
        """Read ``node``, which must call ``tt_edge::attention``; missing arguments have the schema's defaults."""
        if node.target is not ATTENTION:
            raise TypeError(f"{node.name} calls {node.target}, not {ATTENTION}")
        parameters = ATTENTION._schema.arguments
        given = dict(zip((parameter.name for parameter in parameters), node.args, strict=False)) | node.kwargs
        values: dict[str, Any] = {p.name: given.get(p.name, p.default_value) for p in parameters}
        return cls(
            node=node,
            query=values["query"],
            key=values["key"],
            value=values["value"],
            scale=float(values["scale"]),
            causal=bool(values["causal"]),
            window=values["sliding_window"] if values["sliding_window"] > 0 else None,
            softcap=values["softcap"] or None,
            sinks=values["sinks"],
            bias=_unless_zeros(values["bias"]),
            ahead=int(values["ahead"]),
        )

    @classmethod
    def all_in(cls, graph: Graph) -> list[AttentionCall]:
        """The attentions of ``graph``, in order: one per layer in a decoder."""
        return [cls.of(node) for node in calls(graph, ATTENTION)]

    @property
    def stored(self) -> tuple[Node, Node]:
        """What a cache holds for it: keys and values. Layers that share them have the same nodes here."""
        return self.key, self.value

    @property
    def is_limited(self) -> bool:
        """Whether it has a window, a softcap, sinks or a bias."""
        return any(limit is not None for limit in (self.window, self.softcap, self.sinks, self.bias))

    def window_within(self, capacity: int) -> int | None:
        """``window``, or ``None`` if it has no effect in a cache of ``capacity`` tokens."""
        return self.window if self.window is not None and self.window < capacity else None


def _unless_zeros(bias: Any) -> Node | None:
    """``bias``, or ``None`` for the zeros that T5 passes to attention without one."""
    is_zeros = isinstance(bias, Node) and bias.target is torch.ops.aten.zeros.default
    return None if is_zeros or not isinstance(bias, Node) else bias
