from __future__ import annotations

import torch

from tests.lowering.helpers import Function, canonical, context, export, ops
from tt_edge.lowering.cleanup.fold_constants import FoldConstants

BS = {0: {0: "batch", 1: "sequence"}}


def folded(function, **parameters):
    x = torch.randn(2, 5, 8)
    module = canonical(export(Function(function, **parameters), x, dynamic=BS))
    want = module(x)
    record = FoldConstants()(module, context())
    module.recompile()
    torch.testing.assert_close(module(x), want)
    return module, record.matches


def test_a_chain_of_constants_becomes_one():
    module, matches = folded(lambda self, x: x * (1.0 + self.weight.float()).sqrt(), weight=torch.rand(8).half())
    assert ops(module) == {"aten.mul.Tensor": 1}
    assert matches == 3


def test_what_depends_on_an_input_stays():
    module, matches = folded(lambda self, x: x * self.weight + 1.0, weight=torch.rand(8))
    assert ops(module) == {"aten.mul.Tensor": 1, "aten.add.Tensor": 1}
    assert matches == 0


def test_a_matrix_is_not_copied():
    module, matches = folded(lambda self, x: x @ self.weight.t(), weight=torch.rand(16384, 8))
    assert ops(module)["aten.t.default"] == 1
    assert matches == 0


def test_a_size_that_depends_on_an_input_stays():
    module, matches = folded(lambda self, x: x + self.weight.expand(x.shape[1], 8), weight=torch.rand(8))
    assert matches == 0
    assert ops(module)["aten.expand.default"] == 1


def test_parts_of_a_constant_that_is_split():
    """However large: no converter splits a constant."""

    def function(self, x):
        sines, cosines = self.table.tensor_split(2, -1)
        return x * sines[:8].sum() + cosines[:, :8].sum(0)

    module, matches = folded(function, table=torch.rand(8192, 16))
    assert ops(module) == {"aten.mul.Tensor": 1, "aten.add.Tensor": 1}
    assert matches >= 2
