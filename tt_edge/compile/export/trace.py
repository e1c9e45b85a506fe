"""Tracing a module with torch.export, in one way for every part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import sympy
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from tt_edge.compile.export.layer_copies import check_writes, mutates
from tt_edge.compile.export.repeat import RepeatedLayers
from tt_edge.compile.export.slice_writes import replace_in_place, replace_writes
from tt_edge.errors import UnsupportedModelError

_LOGGER = logging.getLogger("tt_edge")


def trace(
    module: nn.Module,
    arguments: Sequence[Tensor],
    named: Mapping[str, Tensor],
    dynamic_shapes: Any,
    what: str,
    explain: Callable[[Exception], None] = lambda _error: None,
    *,
    assumes: Callable[[sympy.Basic], bool] | None = None,
) -> GraphModule:
    """Export ``module``, called with positional and ``named`` tensors, to a graph whose weights share the module's storage.

    ``what`` names it in errors. ``explain`` may raise a better error than the exporter's. ``assumes`` is asked whether a condition
    on sizes, which the exporter cannot prove, holds for every size. Raises ``UnsupportedModelError`` when the module cannot be
    traced.
    """
    with torch.no_grad(), _without_stack_traces(), _without_a_cache_of_shapes(), _without_idle_switches():
        try:
            export = partial(_export, module, tuple(arguments), dict(named), dynamic_shapes, assumes is not None)
            exported = _with_repeated_layers(module, export) or export()
            if assumes is not None:
                _check_conditions(exported, assumes, what)
        except UnsupportedModelError:
            raise
        except Exception as error:
            if isinstance(error.__cause__, UnsupportedModelError):
                raise error.__cause__ from error
            explain(error)
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UnsupportedModelError(
                f"{what} cannot be traced by torch.export: {reason}; run with --debug for where"
            ) from error
    # A plain GraphModule over the same parameters, without the exporter's checks of its inputs: passes add inputs.
    return GraphModule(exported, exported.graph)


def _export(
    module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], dynamic_shapes: Any, deferred: bool
) -> GraphModule:
    program = torch.export.export(
        module,
        arguments,
        kwargs=named,
        dynamic_shapes=dynamic_shapes,
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=deferred,
    )
    if not any(mutates(node) for node in program.graph.nodes):
        return _module_of(program)
    exported = _module_of(program)
    replace_in_place(exported.graph)
    check_writes(exported.graph)  # Qwen3-VL writes into slices of its angles
    if replace_writes(exported.graph):
        exported.recompile()
        return exported
    return _module_of(program.run_decompositions({}))  # which traces everything again


def _module_of(program: ExportedProgram) -> GraphModule:
    exported: GraphModule = program.module(check_guards=False)
    return exported


def _check_conditions(module: GraphModule, assumes: Callable[[sympy.Basic], bool], what: str) -> None:
    """Remove the assertions on sizes that the exporter left. Raises ``UnsupportedModelError`` for one that may not hold."""
    known: set[sympy.Basic] = set()  # equal layers have equal conditions
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten._assert_scalar.default:
            continue
        condition = node.args[0].meta["val"]
        if isinstance(condition, torch.SymBool) and (expression := condition.node.expr) not in known:
            if not assumes(expression):
                raise UnsupportedModelError(
                    f"{what} computes in another way for sources of some lengths ({expression} is not always true), which no "
                    "backend has"
                )
            known.add(expression)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _with_repeated_layers(module: nn.Module, export: Callable[[], GraphModule]) -> GraphModule | None:
    """The graph of ``export`` with equal layers traced once; ``None`` if there are none, or something went wrong on the way."""
    layers = RepeatedLayers(module)
    if not layers.layers:
        return None
    try:
        with layers.marking():
            exported = export()
        layers.expand(exported)
    except Exception as error:
        if isinstance(error, UnsupportedModelError) or isinstance(error.__cause__, UnsupportedModelError):
            raise
        # PyTorch has errors of its own for a layer_idx that it cannot use; the whole trace says what is wrong otherwise.
        _LOGGER.debug("each layer is traced: %s", error)
        return None
    return exported


def _without_stack_traces() -> AbstractContextManager[object]:
    """Nobody reads them, and they take a tenth of the time. Older PyTorch has no such setting."""
    name = "do_not_emit_stack_traces"
    return patch.object(torch.fx.config, name, True) if hasattr(torch.fx.config, name) else nullcontext()


def _without_a_cache_of_shapes() -> AbstractContextManager[object]:
    """Equal layers are traced once, so most entries would be made and never used: a tenth of the time."""
    from torch._dynamo import config

    return config.patch(fake_tensor_cache_enabled=False)  # type: ignore[no-untyped-call,no-any-return]


@contextmanager
def _without_idle_switches() -> Iterator[None]:
    """``torch.no_grad`` does nothing where gradients are off already, as they are here.

    The exporter records each switch, then splits the graph at it and joins the parts again: a sixth of the time.
    """

    def enter(self: torch.no_grad) -> None:
        self.prev = torch.is_grad_enabled()
        if self.prev:
            torch.set_grad_enabled(False)

    def leave(self: torch.no_grad, *_error: object) -> None:
        if self.prev:
            torch.set_grad_enabled(True)

    with patch.object(torch.no_grad, "__enter__", enter), patch.object(torch.no_grad, "__exit__", leave):
        yield
