from __future__ import annotations

import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.align_constants import AlignConstants

BS = {0: {0: "batch", 1: "sequence"}}


def test_a_constant_takes_the_rank_of_the_activation_without_a_copy():
    x, source = torch.randn(2, 3, 8), Function(lambda self, x: x * self.scale, scale=torch.randn(8))
    module = canonical(export(source, x, dynamic=BS))
    want = module(x)
    assert run(AlignConstants(), module).matches == 1
    assert ops(module) == {"aten.mul.Tensor": 1}
    aligned = next(b for n, b in module.named_buffers() if n.endswith("_aligned"))
    assert aligned.shape == (1, 1, 8)
    assert aligned.data_ptr() == source.scale.data_ptr()
    torch.testing.assert_close(module(x), want, rtol=0, atol=0)


def test_a_constant_of_full_rank_stays():
    x = torch.randn(2, 3, 8)
    module = canonical(export(Function(lambda self, x: x * self.scale, scale=torch.randn(1, 1, 8)), x, dynamic=BS))
    assert run(AlignConstants(), module).matches == 0
