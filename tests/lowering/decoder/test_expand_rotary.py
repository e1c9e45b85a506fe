from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, export, ops, run
from tt_edge.lowering.decoder.expand_rotary import ExpandRotary

CAPACITY = 64


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [8, 4])
def test_rotary_arithmetic_is_the_rotation(interleaved, rotary_dim):
    def rotate(self, positions, x, y):
        rotary = torch.ops.tt_edge.rotary_from_table
        return tuple(rotary(t, self.cos, self.sin, positions, interleaved) for t in (x, y))

    angles = torch.randn(CAPACITY, rotary_dim // 2)
    model = Function(rotate, cos=angles.cos(), sin=angles.sin())
    x, y = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    positions = torch.randint(0, CAPACITY, (2, 5))
    module = export(model, positions, x, y, dynamic={0: {0: "b", 1: "s"}, 1: {0: "b", 2: "s"}, 2: {0: "b", 2: "s"}})
    assert run(ExpandRotary(), module).matches == 2
    assert ops(module)["aten.embedding.default"] == 2  # each table once for both tensors
    assert not any("rotary" in name for name in ops(module))
    for got, want in zip(module(positions, x, y), model(positions, x, y), strict=True):
        torch.testing.assert_close(got, want)
