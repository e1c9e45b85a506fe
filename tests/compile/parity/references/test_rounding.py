"""The yardstick in fp32: numbers of quantized inputs on the edge between two steps are rounded to the other one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tt_edge.compile.parity.references.rounding import farthest_rounding
from tt_edge.compile.parity.report import FP32_TOLERANCE, allowed
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat


@pytest.mark.parametrize(
    ("form", "scale", "numbers", "exact", "farthest"),
    [
        ("int8", 1.0, (100.0, 2.5, 7.0, -3.0), 106.0, 107.0),  # 2.5 to 2, or to 3
        ("int8", 1.0, (100.0, 2.4999, 7.0, -3.0), 106.0, 106.0),
        ("fp8", 1.0, (96.0, 17.0, 0.0, 0.0), 112.0, 114.0),  # 17 to 16, or to 18
        ("fp8", 1.0, (96.0, 16.9, 0.0, 0.0), 112.0, 112.0),
        ("int8", None, (100.0, 2.5, 7.0, -3.0), 106.5, 106.5),
    ],
)
def test_an_edge(form, scale, numbers, exact, farthest):
    """The layer adds its inputs. Without quantized inputs, nothing is computed again."""
    form, calls = WeightFormat(form), []
    input_scale = None if scale is None else torch.tensor(scale)
    weight = QuantizedWeight(form, torch.ones(1, 4).to(form.dtype), torch.ones(1), input_scale=input_scale)
    layer = QuantizedLinear(weight)

    def compute():
        calls.append(layer)
        return {"sum": layer(torch.tensor([[numbers]])).numpy()}

    found = compute()
    assert found["sum"].item() == exact
    assert farthest_rounding(layer, found, compute)["sum"].item() == farthest
    assert len(calls) == (1 if scale is None else 3)
    np.testing.assert_array_equal(compute()["sum"], found["sum"])  # the layer is as before


def test_what_is_allowed():
    assert allowed("fp32", 0.0) == FP32_TOLERANCE
    assert allowed("fp32", 1e-6) == FP32_TOLERANCE
    assert allowed("fp32", 6e-3) == 1.2e-2
    assert allowed("fp16", 1e-6) == 2e-6
