"""Tracing a module with torch.export, in one way for every part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tt_edge.errors import UnsupportedModelError


def trace(
    module: nn.Module,
    arguments: Sequence[Tensor],
    named: Mapping[str, Tensor],
    dynamic_shapes: Any,
    what: str,
    explain: Callable[[Exception], None] = lambda _error: None,
) -> GraphModule:
    """Export ``module``, called with positional and ``named`` tensors, to a graph whose weights share the module's storage.

    ``what`` names it in errors. ``explain`` may raise a better error than the exporter's. Raises ``UnsupportedModelError``
    when the module cannot be traced.
    """
    # Stack traces would take a tenth of the time, and are not used here.
    with torch.no_grad(), _without_stack_traces():
        try:
            program = torch.export.export(
                module, tuple(arguments), kwargs=dict(named), dynamic_shapes=dynamic_shapes, strict=False
            )
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
        if any(_mutates(node) for node in program.graph.nodes):
            # Qwen3-VL writes into slices of its angles. Otherwise there is nothing to gain, and it traces everything again.
            program = program.run_decompositions({})
    exported = program.module(check_guards=False)
    # A plain GraphModule over the same parameters, without the exporter's checks of its inputs: passes add inputs.
    return GraphModule(exported, exported.graph)


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _without_stack_traces() -> AbstractContextManager[object]:
    """Nobody reads them; they take time. Older PyTorch has no such setting."""
    name = "do_not_emit_stack_traces"
    return patch.object(torch.fx.config, name, True) if hasattr(torch.fx.config, name) else nullcontext()
