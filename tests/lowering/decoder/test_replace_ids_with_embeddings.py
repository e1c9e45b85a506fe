from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, ops, run
from tt_edge.errors import LoweringError, UnsupportedModelError
from tt_edge.lowering.decoder.replace_ids_with_embeddings import ReplaceIdsWithEmbeddings


def exported(function, ids, table):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Function(function, table=table)

        def forward(self, input_ids):
            return self.inner(input_ids)

    graph = torch.export.export(Model(), (ids,)).module(check_guards=False)
    return canonical(torch.fx.GraphModule(graph, graph.graph))


def test_the_lookup_becomes_an_input():
    ids, table = torch.randint(0, 9, (2, 5)), torch.randn(9, 8)
    module = exported(lambda self, x: torch.nn.functional.embedding(x, self.table) * 3.0, ids, table)
    assert ops(module) == {"aten.embedding.default": 1, "aten.mul.Tensor": 1}
    assert run(ReplaceIdsWithEmbeddings(), module).matches == 1
    assert ops(module) == {"aten.mul.Tensor": 1}
    assert [n.target for n in module.graph.find_nodes(op="placeholder")] == ["input_ids", "inputs_embeds"]
    torch.testing.assert_close(module(ids, table[ids])[0], table[ids] * 3.0)
    with pytest.raises(LoweringError, match="matched 0 times, not once"):
        run(ReplaceIdsWithEmbeddings(), module)


def test_token_ids_that_are_used_otherwise_too_are_refused():
    def function(self, x):
        return torch.nn.functional.embedding(x, self.table) * (x[..., None] > 0)

    module = exported(function, torch.randint(0, 9, (2, 5)), torch.randn(9, 8))
    with pytest.raises(UnsupportedModelError, match=r"uses its token ids beside .*; omit --layout"):
        run(ReplaceIdsWithEmbeddings(), module)
