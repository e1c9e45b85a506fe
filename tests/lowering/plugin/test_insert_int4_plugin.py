from __future__ import annotations

import pytest
import torch

import tt_edge.plugins.ops.quantization  # noqa: F401  (defines the operator)
from tests.lowering.helpers import Function, canonical, context, export, ops, run
from tt_edge.lowering.plugin.insert_int4_plugin import InsertInt4Plugin

BS = {0: {0: "batch", 1: "sequence"}}


def quantized(rows=64, columns=256, group=128, bias=True):
    """``tt_edge::quantized_linear`` of an INT4 weight, exported."""

    def f(self, x):
        offset = self.bias if bias else None
        return torch.ops.tt_edge.quantized_linear(x, self.values, self.scale, offset, None, None, "int4")

    values = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8)
    scale = torch.rand(rows, columns // group) + 0.5
    x = torch.randn(2, 3, columns)
    return canonical(export(Function(f, values=values, scale=scale, bias=torch.randn(rows)), x, dynamic=BS)), x


def plugin():
    return context(backend="plugin", precision="fp32")


@pytest.mark.parametrize("bias", [True, False])
def test_a_fitting_layer_becomes_the_plugin(bias):
    module, x = quantized(bias=bias)
    want = module(x)
    assert run(InsertInt4Plugin(), module, plugin()).matches == 1
    assert ops(module)["tt_edge.int4_groupwise_gemm.default"] == 1
    assert ops(module)["aten.add.Tensor"] == bias
    assert "tt_edge.quantized_linear.default" not in ops(module)
    torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sizes", [{"group": 64}, {"rows": 66}], ids=["another group size", "rows that do not fit"])
def test_what_the_plugin_has_no_order_for_stays(sizes):
    module, _ = quantized(**sizes)
    assert run(InsertInt4Plugin(), module, plugin()).matches == 0
    assert ops(module)["tt_edge.quantized_linear.default"] == 1
