from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv1d, conv_transpose1d

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.conv1d_as_conv2d import Conv1dAsConv2d


@pytest.mark.parametrize(
    ("channels", "settings"),
    [
        (6, {}),
        (6, {"stride": 2, "padding": 1}),
        (1, {"groups": 6, "padding": 4, "dilation": 2}),
        (2, {"groups": 3, "padding": "same"}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_an_image_one_pixel_high(channels, settings, bias):
    """Before: aten.conv1d. After: aten.unsqueeze, aten.conv2d, aten.squeeze."""

    def f(self, x):
        return conv1d(x, self.weight, self.bias if bias else None, **settings)

    x, weight = torch.randn(2, 6, 17), torch.randn(12, channels, 3)
    module = canonical(export(Function(f, weight=weight, bias=torch.randn(12)), x, dynamic={0: {0: "batch"}}))
    want = module(x)
    assert any("conv1d" in name for name in ops(module))
    assert run(Conv1dAsConv2d(), module).matches == 1
    assert not any("conv1d" in name for name in ops(module))
    assert sum(count for name, count in ops(module).items() if "conv2d" in name) == 1
    torch.testing.assert_close(module(x), want, rtol=1e-5, atol=1e-5)


def test_what_stays():
    """A transposed convolution, and one whose weight is computed."""

    def f(self, x):
        return conv_transpose1d(x, self.weight) + conv1d(x, x[:, :, :3].flatten(0, 1)[None], padding=2)

    x = torch.randn(1, 6, 17)
    module = canonical(export(Function(f, weight=torch.randn(6, 1, 3)), x))
    assert run(Conv1dAsConv2d(), module).matches == 0
