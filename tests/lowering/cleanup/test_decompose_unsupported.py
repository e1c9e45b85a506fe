from __future__ import annotations

import operator

import pytest
import torch
from torch._decomp import core_aten_decompositions

from tests.lowering.helpers import Function, canonical, context, export, ops, run
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import Converters
from tt_edge.lowering.cleanup.decompose_unsupported import DecomposeUnsupported

BS = {0: {0: "batch", 1: "sequence"}}


def context_with(supports, table):
    ctx = context()
    ctx.converters = Converters(supports, table)
    return ctx


def test_only_what_lacks_a_converter():
    def f(_, x):
        return torch.addcmul(x, x, x, value=0.5) + torch.relu(x)

    x = torch.randn(2, 3)
    module = export(Function(f), x, dynamic=BS)
    want = module(x)
    canonical(module)
    missing = {torch.ops.aten.addcmul.default}
    record = run(
        DecomposeUnsupported(), module, context_with(lambda n: n.target not in missing, core_aten_decompositions())
    )
    assert record.matches == 1
    assert "aten.addcmul.default" not in ops(module)
    assert ops(module)["aten.relu.default"] == 1
    torch.testing.assert_close(module(x)[0], want)


def test_an_operator_with_neither_is_named():
    x = torch.randn(3, 3)
    module = canonical(export(Function(lambda _, x: torch.linalg.det(x)), x))
    with pytest.raises(UnsupportedModelError, match="linalg"):
        run(DecomposeUnsupported(), module, context_with(lambda n: n.target is operator.getitem, {}))


def test_results_of_an_operator_with_several_stay_with_it():
    x = torch.randn(2, 6)
    module = canonical(export(Function(lambda _, x: torch.mul(*x.chunk(2, dim=-1))), x))
    want = module(x)
    converted = (torch.ops.aten.mul.Tensor, torch.ops.aten.split_with_sizes.default)
    run(DecomposeUnsupported(), module, context_with(lambda n: n.target in converted, core_aten_decompositions()))
    assert [n.target for n in module.graph.nodes].count(operator.getitem) == 2
    torch.testing.assert_close(module(x), want)


@pytest.mark.parametrize("correction", [0, 1])
def test_a_standard_deviation_is_decomposed_to_operators_with_converters(correction):
    """PyTorch's own decomposition ends in ``prims.broadcast_in_dim``, which has none."""
    x = torch.randn(2, 3, 8)
    module = export(Function(lambda _, x: torch.std(x, -1, keepdim=True, correction=correction)), x, dynamic=BS)
    canonical(module)
    missing = {torch.ops.aten.std.correction}
    ctx = context_with(lambda n: n.target not in missing, core_aten_decompositions())
    assert run(DecomposeUnsupported(), module, ctx).matches == 1
    assert not any("std" in name or "prims" in name for name in ops(module))
    torch.testing.assert_close(module(x)[0], torch.std(x, -1, keepdim=True, correction=correction))


def test_nodes_that_share_a_fake_tensor_are_told_apart():
    """Layers that are repeated share it: ``stack`` of two of their results had the second one twice."""
    x = torch.randn(2, 6)
    module = canonical(export(Function(lambda _, x: torch.stack([torch.sin(x), torch.cos(x)])), x))
    first, second = (
        next(n for n in module.graph.nodes if n.target is getattr(torch.ops.aten, name).default)
        for name in ("sin", "cos")
    )
    second.meta["val"] = first.meta["val"]
    want = module(x)
    missing = {torch.ops.aten.stack.default}
    run(DecomposeUnsupported(), module, context_with(lambda n: n.target not in missing, core_aten_decompositions()))
    assert "aten.stack.default" not in ops(module)
    torch.testing.assert_close(module(x), want)
