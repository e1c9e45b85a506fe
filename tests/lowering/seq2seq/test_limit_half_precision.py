"""T5's guard against infinite numbers."""

from __future__ import annotations

import torch

from tests.lowering.helpers import ops, run
from tests.lowering.seq2seq.graphs import graph, result
from tt_edge.lowering.seq2seq.limit_half_precision import LimitHalfPrecision


def test_t5s_limit_no_longer_looks_at_other_tokens():
    def limited(_, x):
        most = torch.finfo(x.dtype).max
        limit = torch.where(torch.isinf(x).any(), most - 1000, most)
        return torch.clamp(x, min=-limit, max=limit)

    x = torch.tensor([[1.0, -3.0], [float("inf"), 7.0]], dtype=torch.float16)
    module, plain = graph(limited, x)
    assert run(LimitHalfPrecision(), module).matches == 1
    assert not any("any" in name or "where" in name for name in ops(module))
    torch.testing.assert_close(result(module, x), plain(x))
    torch.testing.assert_close(result(module, x[:1]), x[:1])
