from __future__ import annotations

import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.canonicalize_graph import CanonicalizeGraph

BS = {0: {0: "batch", 1: "sequence"}}


def test_leaves_only_what_computes():
    def f(_, x):
        y = x.to(torch.float32).detach()[:, 0:]
        return torch.nn.functional.dropout(y, training=False).to(torch.float16).contiguous()

    x = torch.randn(2, 5)
    module = export(Function(f), x, dynamic=BS)
    want = module(x)
    assert ops(module)["aten.slice.Tensor"] >= 1
    record = run(CanonicalizeGraph(), module)
    assert ops(module) == {"aten._to_copy.default": 1}
    assert record.matches >= 3
    torch.testing.assert_close(module(x)[0], want, rtol=0, atol=0)


def test_keeps_a_slice_that_drops_something():
    x = torch.randn(2, 5)
    module = canonical(export(Function(lambda _, x: x[:, 1:] * 1.5), x))
    assert ops(module)["aten.slice.Tensor"] >= 1


def test_integers_become_floats_where_pytorch_makes_them():
    """TensorRT divides integers as integers: Ministral 3 scales queries by a logarithm of floored positions."""

    def f(_, positions):
        return torch.log(1 + torch.floor(positions / 4)) * positions + torch.floor(positions // 2)

    positions = torch.arange(24).view(2, 12)
    module = export(Function(f), positions, dynamic=BS)
    want = module(positions)
    run(CanonicalizeGraph(), module)
    found = ops(module)
    assert found["aten._to_copy.default"] == 3  # of the division, the product and the sum
    assert found["aten.floor.default"] == 1  # of an integer there is nothing to floor
    torch.testing.assert_close(module(positions)[0], want, rtol=0, atol=0)
