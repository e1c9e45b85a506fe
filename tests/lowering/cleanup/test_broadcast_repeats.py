from __future__ import annotations

import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.broadcast_repeats import BroadcastRepeats

BS = {0: {0: "batch", 1: "sequence"}, 1: {1: "batch", 2: "sequence"}}


def lowered(function, *args):
    module = canonical(export(Function(function), *args, dynamic={i: BS[i] for i in range(len(args))}))
    want = module(*args)
    record = run(BroadcastRepeats(), module)
    torch.testing.assert_close(module(*args), want)
    return record.matches, ops(module)


def test_a_product_broadcasts_by_itself():
    """As in Gemma 3n's AltUp."""
    x, z = torch.randn(2, 5, 8), torch.randn(4, 2, 5, 1)
    matches, found = lowered(lambda _, x, z: torch.mul(x.repeat(4, 1, 1, 1), z), x, z)
    assert matches == 1
    assert found["aten.unsqueeze.default"] == 1
    assert found["aten.repeat.default"] == found["aten.expand.default"] == 0


def test_what_does_not_broadcast_is_expanded():
    x = torch.randn(2, 5, 1)
    matches, found = lowered(lambda _, x: torch.softmax(x.repeat(3, 1, 1, 4), -1), x)
    assert matches == 1
    assert found["aten.expand.default"] == 1


def test_copies_side_by_side_stay():
    matches, found = lowered(lambda _, x: x.repeat(1, 1, 2), torch.randn(2, 5, 8))
    assert matches == 0
    assert found["aten.repeat.default"] == 1
