from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, context, export, run
from tt_edge.errors import LoweringError
from tt_edge.lowering.decoder.move_logits_to_last_token import MoveLogitsToLastToken

BS = {0: {0: "batch", 1: "sequence"}}


class TestLastTokenLogits:
    @staticmethod
    def head(self, x):
        return torch.tanh(torch.nn.functional.linear(x, self.weight) / 30.0) * 30.0

    def test_only_the_last_token_reaches_the_head(self):
        x = torch.randn(2, 5, 8, dtype=torch.float16)
        module = export(Function(self.head, weight=torch.randn(11, 8, dtype=torch.float16)), x, dynamic=BS)
        want = module(x)
        canonical(module)
        run(MoveLogitsToLastToken(), module)
        last = torch.tensor([4, 2])
        (got,) = module(x, last)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want[torch.arange(2), last].float(), rtol=1e-3, atol=1e-3)
        linear = next(n for n in module.graph.nodes if n.target is torch.ops.aten.linear.default)
        assert tuple(linear.meta["val"].shape[1:]) == (11,)

    def test_full_logits_are_only_converted(self):
        x = torch.randn(2, 5, 8, dtype=torch.float16)
        module = canonical(export(Function(self.head, weight=torch.randn(11, 8, dtype=torch.float16)), x, dynamic=BS))
        assert run(MoveLogitsToLastToken(), module, context(full_logits=True)).matches == 0
        assert module(x)[0].shape == (2, 5, 11)
        assert module(x)[0].dtype == torch.float32

    def test_another_head_is_refused(self):
        x = torch.randn(2, 5, 8)
        module = canonical(export(Function(lambda _, x: x.softmax(-1)), x, dynamic=BS))
        with pytest.raises(LoweringError, match="--full-logits"):
            run(MoveLogitsToLastToken(), module)
