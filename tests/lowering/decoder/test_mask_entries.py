from __future__ import annotations

import torch

from tests.lowering.helpers import Function, canonical, context, export, ops, run
from tt_edge.lowering.cleanup.fold_constants import FoldConstants
from tt_edge.lowering.decoder.mask_entries import MaskEntries
from tt_edge.lowering.decoder.move_logits_to_last_token import MoveLogitsToLastToken

BS = {0: {0: "batch", 1: "sequence"}}


def forbidden(self, x):
    """Logits of which some are overwritten, as the exporter has it."""
    logits = torch.nn.functional.linear(x, self.weight)
    lowest = torch.tensor(torch.finfo(logits.dtype).min)
    return torch.slice_scatter(
        logits, torch.ops.aten.index_put(logits, [None, None, torch.tensor([1, 2, 7])], lowest), 1
    )


def lowered(function):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    program = export(Function(function, weight=torch.randn(11, 8)), x, dynamic=BS)
    want = program(x)
    module = canonical(program)
    run(FoldConstants(), module)
    return module, x, want, run(MaskEntries(), module).matches


def test_overwritten_logits_are_masked_behind_the_head():
    module, x, want, matches = lowered(forbidden)
    assert matches == 1
    assert not any("index_put" in name for name in ops(module))
    run(MoveLogitsToLastToken(), module, context())
    (got,) = module(x, torch.tensor([4, 2]))
    torch.testing.assert_close(got, want[torch.arange(2), torch.tensor([4, 2])])
    assert (got[:, [1, 2, 7]] == torch.finfo(torch.float32).min).all()


def test_entries_that_are_not_constant_are_left():
    def chosen(self, x):
        logits = torch.nn.functional.linear(x, self.weight)
        return torch.ops.aten.index_put(logits, [None, None, x.abs().argmax(-1).flatten()], torch.tensor(0.0))

    assert lowered(chosen)[3] == 0
