"""Building small exported graphs for pass tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tt_edge.config import CompileConfig
from tt_edge.lowering.base import LoweringContext, LoweringPass, PassRecord
from tt_edge.lowering.cleanup.canonicalize_graph import CanonicalizeGraph


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
        shapes = (shapes,) if isinstance(module, Function) else shapes  # which takes its arguments as one tuple
        program = torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
    exported = program.module(check_guards=False)
    return GraphModule(exported, exported.graph)


def context(layers: int = 1, **config: object) -> LoweringContext:
    settings = {"max_batch": 4, "max_input_len": 32, "max_seq_len": 64, **config}
    return LoweringContext(CompileConfig.of(**settings), layers)  # type: ignore[arg-type]


def canonical(module: GraphModule) -> GraphModule:
    CanonicalizeGraph()(module, context())
    module.recompile()
    return module


def run(graph_pass: LoweringPass, module: GraphModule, where: LoweringContext | None = None) -> PassRecord:
    """Run one pass, so that the module computes what its graph now says."""
    record = graph_pass(module, where or context())
    module.recompile()
    return record


def ops(module: GraphModule) -> Counter[str]:
    """How often each operator is called."""
    return Counter(str(n.target) for n in module.graph.nodes if n.op == "call_function")


def attention_module(**attention: object) -> GraphModule:
    """One ``tt_edge::attention`` over inputs: ids ``[b, s]``, query ``[b, 4, s, 8]``, key and value ``[b, 2, s, 8]``."""
    return _over_inputs(lambda q, k, v: torch.ops.tt_edge.attention(q, k, v, 0.25, **attention))


def sharing_module() -> GraphModule:
    """The sum of two over the same inputs, the second with a window of 3 tokens."""
    attention = torch.ops.tt_edge.attention
    return _over_inputs(lambda q, k, v: attention(q, k, v, 0.25) + attention(q, k, v, 0.25, True, 3))


def _over_inputs(function: Callable[..., Tensor]) -> GraphModule:
    class Attend(nn.Module):
        def forward(self, input_ids: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return function(query, key, value)

    b, s = torch.export.Dim("b"), torch.export.Dim("s")
    args = (torch.zeros(2, 5, dtype=torch.int64), *query_key_value(5, seed=0))
    dims = ({0: b, 1: s}, *({0: b, 2: s},) * 3)
    exported = torch.export.export(Attend(), args, dynamic_shapes=dims).module(check_guards=False)
    return canonical(GraphModule(exported, exported.graph))


def query_key_value(length: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random inputs for ``attention_module``, two rows."""
    torch.manual_seed(seed)
    return torch.randn(2, 4, length, 8), torch.randn(2, 2, length, 8), torch.randn(2, 2, length, 8)
