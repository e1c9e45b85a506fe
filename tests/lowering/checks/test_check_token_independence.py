from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, context, ops
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.checks.check_token_independence import CheckTokenIndependence


def checked(function, **parameters):
    """Run the check on ``function(self, input_ids, hidden)`` of ids ``[b, s]`` and hidden states ``[b, s, 8]``."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Function(function, **parameters)

        def forward(self, input_ids, hidden):
            return self.inner(input_ids, hidden)

    b, s = torch.export.Dim("b"), torch.export.Dim("s", min=4, max=64)
    args = (torch.zeros(2, 5, dtype=torch.int64), torch.randn(2, 5, 8))
    program = torch.export.export(Model(), args, dynamic_shapes={"input_ids": {0: b, 1: s}, "hidden": {0: b, 1: s}})
    graph = program.module(check_guards=False)
    module = canonical(torch.fx.GraphModule(graph, graph.graph))
    before = ops(module)
    CheckTokenIndependence()(module, context())
    assert ops(module) == before
    return module


@pytest.mark.parametrize(
    "function",
    [
        lambda _, ids, x: torch.nn.functional.layer_norm(x, (8,)) * ids[..., None],
        lambda _, ids, x: (x.view(x.shape[0] * x.shape[1], 8) * 2).view(x.shape) + ids[..., None],
        lambda _, ids, x: x.view(*x.shape[:2], 2, 4).transpose(1, 2).softmax(-1) + ids[:, None, :, None],
        lambda _, ids, x: x.cumsum(-1) + ids[..., None],
    ],
    ids=["elementwise", "flattened", "heads", "along the features"],
)
def test_what_treats_each_token_by_itself_passes(function):
    checked(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _, ids, x: x.cumsum(1) + ids[..., None], "operator cumsum .*relates tokens to each other outside attention"),
        (lambda _, ids, x: x.mean(1, keepdim=True) + x + ids[..., None], "operator mean .*outside attention"),
        (lambda _, ids, x: x.flip(1) + ids[..., None], "operator flip .*outside attention"),
        (lambda _, ids, x: x.roll(1, 1) + ids[..., None], "operator roll .*outside attention"),
        (lambda _, ids, x: x + (x @ x.transpose(1, 2)).sum(-1, keepdim=True) + ids[..., None], "outside attention"),
        (lambda _, ids, x: x + torch.arange(x.shape[1])[None, :, None] + ids[..., None], "counts the tokens of a call"),
        (
            lambda self, ids, x: torch.nn.functional.conv1d(x.transpose(1, 2), self.w, padding=2)[..., : x.shape[1]].transpose(1, 2)
            + ids[..., None],
            "outside attention",
        ),
    ],
    ids=["running sum", "mean", "flip", "roll", "products", "count", "convolution"],
)  # fmt: skip
def test_what_mixes_tokens_is_refused(function, message):
    with pytest.raises(UnsupportedModelError, match=message):
        checked(function, w=torch.randn(8, 8, 3))
