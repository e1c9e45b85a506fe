"""Attention to an answer and its source in one softmax."""

from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import context, ops, run
from tests.lowering.seq2seq.graphs import IDS, TOKENS, graph, heads, semantic
from tt_edge.lowering.seq2seq.insert_merged_cache import InsertMergedCache


@pytest.mark.parametrize("window", [0, 3])
def test_steps_as_all_at_once(window):
    """Four tokens and then three give what seven give; each row sees the places of its own source."""

    def decoder(parameters, input_ids, key, value):
        q = heads(parameters, input_ids)
        return semantic.merged_attention(q, q * 0.5, q + 1, key, value, 0.3, window)

    cross = [torch.randn(2, 2, 9, 8) for _ in range(2)]
    batch = {0: "batch"}
    module, plain = graph(decoder, IDS, *cross, dynamic={**TOKENS, 1: batch, 2: batch}, name="input_ids")
    ctx = context()
    assert run(InsertMergedCache(), module, ctx).matches == 1
    assert ctx.kv_cache == [("past_key_0", "present_key_0"), ("past_value_0", "present_value_0")]
    assert ops(module)["tt_edge.masked_attention.default"] == 1
    lengths = torch.tensor([6, 9], dtype=torch.int32)
    caches = [torch.zeros(2, 2, ctx.config.limits.max_seq_len, 8) for _ in range(2)]
    found = []
    for start, ids in ((0, IDS[:, :4]), (4, IDS[:, 4:])):
        starts = torch.full((2,), start, dtype=torch.int32)
        out, *caches = module(ids, *cross, starts, lengths, *caches)
        found.append(out)
    found = torch.cat(found, 2)
    for row, length in enumerate(lengths.tolist()):
        wanted = plain(IDS, *(t[:, :, :length] for t in cross))[row]
        torch.testing.assert_close(found[row], wanted)
