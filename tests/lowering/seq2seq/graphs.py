"""Small graphs of encoders and decoders."""

from __future__ import annotations

import torch

from tests.lowering.helpers import Function, canonical, export

semantic = torch.ops.tt_edge
TABLE = torch.randn(2 * 16 - 1, 2, generator=torch.Generator().manual_seed(1))


def heads(parameters, ids):
    """Queries of two heads of eight numbers, ``[B, 2, S, 8]``."""
    return parameters.embedding[ids].unflatten(-1, (2, 8)).transpose(1, 2)


def graph(function, *args, dynamic=None, name=None):
    torch.manual_seed(0)
    parameters = {"embedding": torch.randn(20, 16), "table": TABLE}
    module = canonical(export(Function(function, **parameters), *args, dynamic=dynamic))
    if name:
        first = module.graph.find_nodes(op="placeholder")[0]
        first.target = first.name = name
        module.recompile()
    return module, Function(function, **parameters)


def result(module, *given):
    """The first output of a graph."""
    out = module(*given)
    return out[0] if isinstance(out, tuple) else out


IDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(2))
TOKENS = {0: {0: "batch", 1: "tokens"}}
