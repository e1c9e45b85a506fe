"""Tracing two layers of each kind, and repeating the first in the exported graph for the layers that are equal to it.

The model's own loop over its layers runs as it is, so it decides which layers run, in what order and with which
arguments. The first two layers of each kind are traced, and the second must be a copy of the first with its own weights;
a later one leaves a mark, which is then replaced by such a copy. Two layers are of one kind only if all of this holds:

* their modules are equal but for the values of parameters and buffers, and for ``layer_idx``;
* they are called with the same arguments (the same tensors, equal settings), but for the hidden states, whose shape,
  strides and type are equal;
* the first one did not look at its ``layer_idx`` while it was traced, and set no attribute;
* its nodes use no tensor that is neither its weight nor an argument: that could be another one for another layer.

What is not known to be equal is traced. ``RepetitionError`` says that the whole module has to be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tt_edge.compile.export.layer_copies import RepetitionError, Weights, bodies_of, form, insert_copy, is_copy
from tt_edge.compile.export.layer_kinds import LayerCall, RepeatedLayer, kind_of, layers_of, without_index


@dataclass
class _Traced:
    """A call that was traced as the first of its kind; ``result`` makes its return value from hidden states.

    ``second`` is the next layer of its kind, and the number of the traced call.
    """

    layer: RepeatedLayer
    number: int
    call: LayerCall  # kept alive: tensors are compared by identity
    result: Callable[[Tensor], Any] | None = None
    second: tuple[RepeatedLayer, int] | None = None


class RepeatedLayers:
    """The layers of a module that may be repeated. Within ``marking``, the module's layers are traced twice for each kind."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = layers_of(module)
        self._by_state = {id(layer.module.__dict__): layer for layer in self.layers}
        self._firsts: dict[Any, list[_Traced]] = {}
        self._copies: list[tuple[_Traced, RepeatedLayer]] = []
        self._calls = count()
        self._is_inside = False

    @contextmanager
    def marking(self) -> Iterator[None]:
        """Within the block, calls of the layers leave marks."""
        with ExitStack() as stack:
            for kind in {type(layer.module) for layer in self.layers}:
                stack.enter_context(patch.object(kind, "forward", self._forward(kind.forward)))
            yield

    def _forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # The exporter calls a proxy of the module, which has the module's own state.
            layer = None if self._is_inside else self._by_state.get(id(module.__dict__))
            call = None if layer is None else LayerCall.of(args, kwargs)
            kind = None if layer is None else kind_of(layer.module)  # now: the model may have changed it in its forward
            if layer is None or call is None or kind is None:
                return original(module, *args, **kwargs)
            firsts = self._firsts.setdefault((layer.owner, kind), [])
            first = next((first for first in firsts if call.equals(first.call)), None)
            if first is None:
                first = _Traced(layer, next(self._calls), call)
                firsts.append(first)
                return self._trace_first(first, kind, original, module)
            if first.result is None:
                return original(module, *args, **kwargs)
            if first.second is None:
                first.second = layer, next(self._calls)
                result, returned = self._trace(layer, first.second[1], call, kind, original, module)
                if result is None:
                    raise RepetitionError(f"{layer.path} returns otherwise than {first.layer.path}")
                return returned
            self._copies.append((first, layer))
            return first.result(torch.ops.tt_edge.layer_mark(call.hidden, "again", len(self._copies) - 1, []))

        return forward

    def _trace_first(self, first: _Traced, kind: Any, original: Callable[..., Any], module: nn.Module) -> Any:
        first.result, returned = self._trace(first.layer, first.number, first.call, kind, original, module)
        return returned

    def _trace(
        self,
        layer: RepeatedLayer,
        number: int,
        call: LayerCall,
        kind: Any,
        original: Callable[..., Any],
        module: nn.Module,
    ) -> tuple[Callable[[Tensor], Any] | None, Any]:
        """Call ``layer`` of ``kind`` between marks, without its number: how a copy returns hidden states, and what it returned."""
        with without_index(layer.module), patch.object(self, "_is_inside", True):
            hidden = torch.ops.tt_edge.layer_mark(call.hidden, "begin", number, call.tensors())
            args, kwargs = call.arguments_with(hidden)
            returned = original(module, *args, **kwargs)
        is_tuple = type(returned) is tuple and returned
        made, rest = (returned[0], returned[1:]) if is_tuple else (returned, ())
        if (
            not isinstance(made, Tensor)
            or any(other is not None for other in rest)
            or form(made) != form(call.hidden)
            or kind_of(layer.module) != kind
        ):
            return (
                None,
                returned,
            )  # it returns more than hidden states, or keeps something for later: each layer is traced
        result = (lambda new: (new, *rest)) if is_tuple else (lambda new: new)
        return result, result(torch.ops.tt_edge.layer_mark(made, "end", number, []))

    def expand(self, module: GraphModule) -> None:
        """Replace the marks in the graph by copies of the layers that were traced.

        Raises ``RepetitionError`` for a graph in which they cannot be copied; it is then unusable.
        """
        marks = [n for n in module.graph.nodes if n.target is torch.ops.tt_edge.layer_mark.default]
        if not marks:
            return
        bodies = bodies_of(module.graph, marks)
        weights = Weights(module)
        for first in (first for firsts in self._firsts.values() for first in firsts):
            if first.second is not None:
                layer, number = first.second
                own = weights.in_place_of(first.layer.tensors(), layer.tensors())
                if not is_copy(bodies[first.number], bodies[number], own):
                    raise RepetitionError(f"{layer.path} computes otherwise than {first.layer.path}")
        for mark in marks:
            _, role, number, _ = mark.args
            if role == "again":
                first, layer = self._copies[number]
                own = weights.in_place_of(first.layer.tensors(), layer.tensors())
                insert_copy(module.graph, bodies[first.number], mark, own, (first.layer.path, layer.path))
        for mark in marks:
            if mark.args[1] != "again":
                mark.replace_all_uses_with(mark.args[0])
                module.graph.erase_node(mark)
