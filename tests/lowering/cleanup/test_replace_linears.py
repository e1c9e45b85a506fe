from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.replace_linears import ReplaceLinears

BS = {0: {0: "batch", 1: "sequence"}}


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_becomes_our_operator(bias):
    def f(self, x):
        return torch.nn.functional.linear(x, self.weight, self.bias if bias else None)

    x = torch.randn(2, 3, 8)
    module = canonical(export(Function(f, weight=torch.randn(4, 8), bias=torch.randn(4)), x, dynamic=BS))
    want = module(x)
    assert ops(module) == {"aten.linear.default": 1}
    assert run(ReplaceLinears(), module).matches == 1
    assert ops(module) == {"tt_edge.linear.default": 1}
    torch.testing.assert_close(module(x), want, rtol=0, atol=0)


def test_a_product_of_activations_stays():
    x = torch.randn(2, 3, 8)
    module = canonical(export(Function(lambda _, x: x @ x.transpose(1, 2)), x, dynamic=BS))
    assert run(ReplaceLinears(), module).matches == 0
    assert ops(module)["aten.matmul.default"] == 1
