"""Check that tokens interact only through attention, as the KV cache assumes."""

from __future__ import annotations

from functools import cache
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import ATTENTION, MERGED_ATTENTION, RELATIVE_BIAS
from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, placeholder, value
from tt_edge.lowering.dump import module_path

#: Operators that keep the shape but mix elements along a dimension, and the index of their dimension argument.
_ALONG = {
    "cumsum": 1,
    "cumprod": 1,
    "logcumsumexp": 1,
    "cummax": 1,
    "cummin": 1,
    "softmax": 1,
    "_softmax": 1,
    "log_softmax": 1,
    "sort": 1,
    "argsort": 1,
    "flip": 1,
    "roll": 2,
    "gather": 1,
    "index_select": 1,
}


class CheckTokenIndependence(LoweringPass):
    """Refuse a graph in which a token's result depends on other tokens, except through attention.

    A decode step gives the network one token. What a convolution, a running sum or a count along the sequence needs from
    earlier tokens is not cached, so the step would be computed as if they did not exist. The check follows the symbol ``s``
    of the sequence's length through the shapes; it changes nothing. These are refused::

        [B, s, H] -> [B, s, s]     compares tokens            [B, s, H] -> [B, s + 3, H]    shifts or pads them
        [B, s, H] -> [B, H]        sums over them             arange(s)                     counts them

    An encoder sees its whole source at once, so it may count; the rest would make a result depend on padding. ``tokens`` is the
    input of token ids.
    """

    def __init__(self, tokens: str = "input_ids") -> None:
        self._tokens = tokens

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph = module.graph
        symbol = value(placeholder(graph, self._tokens)).shape[1].node.expr
        graph.eliminate_dead_code()

        @cache
        def follows(size: Any) -> bool:
            return symbol in size.free_symbols

        @cache
        def multiple(size: Any) -> bool:
            """``size`` is ``s`` times something: a view that flattens tokens, not one that adds or drops some."""
            return symbol not in sympy.cancel(size / symbol).free_symbols

        @cache
        def dims(node: Any) -> list[int]:
            val = node.meta.get("val")
            if not isinstance(val, torch.Tensor):
                return []
            return [i for i, size in enumerate(val.shape) if isinstance(size, torch.SymInt) and follows(size.node.expr)]

        for node in graph.nodes:
            val: Any = node.meta.get("val")
            if (
                node.op != "call_function"
                or node.target in (ATTENTION, MERGED_ATTENTION, RELATIVE_BIAS)
                or not isinstance(val, torch.Tensor)
            ):
                continue
            found = dims(node)
            if node.target in (aten.arange.default, aten.arange.start, aten.arange.start_step) and found:
                if self._tokens != "input_ids":
                    continue
                raise UnsupportedModelError(
                    f"the model counts the tokens of a call itself{_where(node)}, so that a decode step would start at "
                    "position 0 again; no backend supports this"
                )
            sources = [source for source in node.all_input_nodes if dims(source)]
            vanished = bool(sources) and not found
            sizes: Any = val.shape
            odd = any(not multiple(sizes[i].node.expr) for i in found)
            if len(found) > 1 or vanished or odd or _mixes(node, dims):
                raise UnsupportedModelError(
                    f"operator {_name(node)}{_where(node)} relates tokens to each other outside attention (a convolution, "
                    "recurrence or mask), which a KV cache does not carry; no backend supports this"
                )
        return 0


def _name(node: Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")


def _mixes(node: Node, dims: Any) -> bool:
    """Whether a call that keeps the sequence's length mixes elements along it."""
    arguments: Any = node.args
    source = next(iter(node.all_input_nodes), None)
    along = dims(source) if source is not None else []
    name = _name(node)
    if not along or not isinstance(source, Node):
        return False
    rank = source.meta["val"].ndim
    if name.startswith(("conv", "group_norm")) or "pool" in name:
        return any(i >= 2 for i in along)
    if name not in _ALONG:
        return False
    given = arguments[_ALONG[name]] if len(arguments) > _ALONG[name] else -1
    chosen = given if isinstance(given, list | tuple) else [given]
    return any(int(d) % rank in along for d in chosen) or (name == "roll" and not chosen)


def _where(node: Node) -> str:
    """Text such as `` in layers.0.conv``; empty if the module is unknown."""
    path = module_path(node)
    return f" in {path}" if path else ""
