from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import canonical, context, export, run
from tt_edge.lowering.cleanup.decompose_norms import DecomposeNorms

aten = torch.ops.aten
NORMS = {
    "group": torch.nn.GroupNorm(2, 6), "group, plain": torch.nn.GroupNorm(3, 6, affine=False), "batch": torch.nn.BatchNorm1d(6)
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_as_the_modules(name):
    norm = NORMS[name].eval()
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2.0)
    x = torch.randn(2, 6, 9)
    module = export(norm, x, dynamic={0: {2: "length"}})
    canonical(module)
    assert run(DecomposeNorms(), module, context()).matches == 1
    assert not {aten.group_norm.default, aten.batch_norm.default} & {node.target for node in module.graph.nodes}
    for length in (9, 4):
        x = torch.randn(2, 6, length)
        torch.testing.assert_close(module(x)[0], norm(x), rtol=1e-5, atol=1e-5)


def test_a_batch_norm_of_a_decomposed_program():
    """A program that writes to its arguments is decomposed when it is exported."""
    norm = torch.nn.BatchNorm2d(6).eval()
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 3, 3)
    module = torch.export.export(norm, (x,)).run_decompositions({}).module()
    assert aten._native_batch_norm_legit_no_training.default in {node.target for node in module.graph.nodes}
    assert run(DecomposeNorms(), module, context()).matches == 1
    torch.testing.assert_close(module(x), norm(x), rtol=1e-5, atol=1e-5)
