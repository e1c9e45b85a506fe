"""What tracing adds to torch.export: gradients are switched off once, in no graph and for nobody else."""

from __future__ import annotations

import torch
from torch import nn

from tt_edge.compile.export.trace import _without_idle_switches, trace


class Angles(nn.Module):
    """Switches gradients off in the middle, as rotary embeddings of transformers do."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)

    @torch.no_grad()
    def angles(self, x):
        return x.cos()

    def forward(self, x):
        return self.last(self.first(x) * self.angles(x))


def test_switches_are_no_part_of_the_graph():
    model, x = Angles().eval(), torch.randn(3, 8)
    module = trace(model, [x], {}, {"x": {0: torch.export.Dim("rows", max=64)}}, "the model")
    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [
        torch.ops.aten.linear.default, torch.ops.aten.cos.default, torch.ops.aten.mul.Tensor, torch.ops.aten.linear.default,
    ]  # fmt: skip
    torch.testing.assert_close(module(x), model(x))
    assert torch.is_grad_enabled()


def test_gradients_that_are_on_are_switched_off_and_on():
    original = torch.no_grad.__enter__
    with _without_idle_switches():
        with torch.no_grad():
            assert not torch.is_grad_enabled()
            with torch.no_grad():
                assert not torch.is_grad_enabled()
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
    assert torch.no_grad.__enter__ is original
