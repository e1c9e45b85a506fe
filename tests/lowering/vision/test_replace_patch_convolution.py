from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, conv3d

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.vision.replace_patch_convolution import ReplacePatchConvolution


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("convolution", "sizes", "patch"),
    [(conv3d, (3, 2, 4, 4), (2, 4, 4)), (conv2d, (3, 4, 4), (4, 4))],
    ids=["3d", "2d"],
)
def test_a_convolution_of_one_place_is_a_linear_layer(convolution, sizes, patch, bias):
    def f(self, x):
        return convolution(x, self.weight, self.bias if bias else None, stride=patch)

    x, weight = torch.randn(7, *sizes), torch.randn(16, *sizes)
    module = canonical(export(Function(f, weight=weight, bias=torch.randn(16)), x, dynamic={0: {0: "patches"}}))
    want = module(x)
    assert run(ReplacePatchConvolution(), module).matches == 1
    assert ops(module)["aten.linear.default"] == 1
    assert not any("conv" in name for name in ops(module))
    torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-5)


def test_a_convolution_that_slides_stays():
    x = torch.randn(2, 3, 8, 8)
    module = canonical(export(Function(lambda self, x: conv2d(x, self.weight), weight=torch.randn(16, 3, 4, 4)), x))
    assert run(ReplacePatchConvolution(), module).matches == 0
    assert ops(module) == {"aten.conv2d.default": 1}
