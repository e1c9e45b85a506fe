"""Building small exported graphs for pass tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tt_edge.config import CompileConfig
from tt_edge.lowering.base import LoweringContext
from tt_edge.lowering.canonicalize import Canonicalize


class Function(nn.Module):
    """A module around a function, with tensors it reads as parameters."""

    def __init__(self, function: Callable[..., object], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in parameters.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, *args: Tensor) -> object:
        return self.function(self, *args)


def export(module: nn.Module, *args: Tensor, dynamic: dict[int, dict[int, str]] | None = None) -> GraphModule:
    """Export to a plain GraphModule; ``dynamic`` maps argument index to {dimension: name}."""
    dims = {name: torch.export.Dim(name) for spec in (dynamic or {}).values() for name in spec.values()}
    shapes = tuple({d: dims[name] for d, name in (dynamic or {}).get(i, {}).items()} for i in range(len(args)))
    with torch.no_grad():
        program = torch.export.export(module, args, dynamic_shapes=(shapes,), strict=False)
    exported = program.module(check_guards=False)
    return GraphModule(exported, exported.graph)


def context(layers: int = 1, **config: object) -> LoweringContext:
    settings = {"max_batch": 4, "max_input_len": 32, "max_seq_len": 64, **config}
    return LoweringContext(CompileConfig(**settings), layers)  # type: ignore[arg-type]


def canonical(module: GraphModule) -> GraphModule:
    Canonicalize()(module, context())
    module.recompile()
    return module


def ops(module: GraphModule) -> Counter[str]:
    """How often each operator is called."""
    return Counter(str(n.target) for n in module.graph.nodes if n.op == "call_function")
