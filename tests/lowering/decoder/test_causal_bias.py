"""T5's relative bias, with the KV cache."""

from __future__ import annotations

import torch

from tests.lowering.helpers import context, ops, run
from tests.lowering.seq2seq.graphs import IDS, TOKENS, graph, heads, semantic
from tt_edge.lowering.decoder.insert_kv_cache import InsertKVCache


def test_a_relative_bias_is_exact_at_any_past():
    def decoder(parameters, input_ids):
        q = heads(parameters, input_ids)
        bias = semantic.relative_bias(parameters.table, input_ids.shape[1], input_ids.shape[1])
        return semantic.attention(q, q * 0.5, q + 1, 0.3, True, 0, 0.0, None, bias)

    module, plain = graph(decoder, IDS, dynamic=TOKENS, name="input_ids")
    whole = plain(IDS)
    where = context(max_seq_len=16, max_input_len=16)
    assert run(InsertKVCache(), module, where).matches == 1
    found = ops(module)
    assert (found["tt_edge.relative_rows.default"], found["tt_edge.masked_attention.default"]) == (1, 1)
    caches = [torch.zeros(2, 2, 16, 8) for _ in range(2)]
    steps, past = [], 0
    for width in (3, 1, 1, 2):
        start = torch.full((2,), past, dtype=torch.int32)
        out, *caches = module(IDS[:, past : past + width], start, *caches)
        steps.append(out)
        past += width
    torch.testing.assert_close(torch.cat(steps, 2), whole)
