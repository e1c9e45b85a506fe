"""What a model returns, from shapes alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from tt_edge.compile.export.by_shapes import by_shapes


class Counted(nn.Module):
    """Keeps what it computes, as some models keep their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.register_buffer("kept", torch.zeros(1))
        self.calls: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = self.linear(x)
        self.calls.append(self.kept)
        return self.kept


def test_nothing_is_computed_and_the_module_stays_as_it_was():
    module = Counted()
    found = by_shapes(module, lambda module: module(torch.zeros(2, 7, 3)))
    assert found.shape == (2, 7, 5)
    assert found.dtype == torch.float32
    assert isinstance(found, FakeTensor), "has no values"
    assert module.kept.tolist() == [0.0]
    assert module.calls == []


def test_where_values_decide_they_are_computed():
    module = Counted()
    nn.init.ones_(module.linear.weight)
    nn.init.zeros_(module.linear.bias)

    def rows(module: Counted) -> torch.Tensor:
        out = module(torch.ones(4, 3))
        return out[: int(out[0, 0])]

    assert by_shapes(module, rows).shape == (3, 5)


def test_errors_are_those_of_the_call_with_values():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        by_shapes(Counted(), lambda module: module(torch.zeros(2, 4)))
