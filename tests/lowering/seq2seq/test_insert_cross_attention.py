"""Attention of a decoder to its source."""

from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import ops, run
from tests.lowering.seq2seq.graphs import IDS, TOKENS, graph, heads, result, semantic
from tt_edge.lowering.seq2seq.insert_cross_attention import InsertCrossAttention


@pytest.mark.parametrize("fixed", [False, True])
def test_attention_to_a_source(fixed):
    def decoder(parameters, input_ids, key, value):
        q = heads(parameters, input_ids)
        own = semantic.attention(q, q * 0.5, q + 1, 0.3)
        return semantic.attention(own, key, value, 0.3, False)

    cross = [torch.randn(2, 2, 9, 8) for _ in range(2)]
    batch = {0: "batch"}
    module, plain = graph(decoder, IDS, *cross, dynamic={**TOKENS, 1: batch, 2: batch}, name="input_ids")
    shorter = plain(IDS, *(t[:, :, :6] for t in cross))
    assert run(InsertCrossAttention(fixed=fixed), module).matches == 1
    found = ops(module)
    assert found["tt_edge.attention.default"] == 1  # self-attention is left
    if fixed:
        assert found["tt_edge.full_attention.default"] == 1
        torch.testing.assert_close(result(module, IDS, *cross), plain(IDS, *cross))
    else:
        assert found["tt_edge.prefix_attention.default"] == 1
        lengths = torch.tensor([6, 6], dtype=torch.int32)
        torch.testing.assert_close(result(module, IDS, *cross, lengths), shorter)


def test_capped_attention_to_a_source():
    def decoder(parameters, input_ids, key, value):
        q = heads(parameters, input_ids)
        return semantic.attention(q, key, value, 0.3, False, 0, 2.0)

    cross = [torch.randn(2, 2, 9, 8) for _ in range(2)]
    batch = {0: "batch"}
    module, plain = graph(decoder, IDS, *cross, dynamic={**TOKENS, 1: batch, 2: batch}, name="input_ids")
    assert run(InsertCrossAttention(fixed=False), module).matches == 1
    assert ops(module)["tt_edge.capped_attention.default"] == 1
    lengths = torch.tensor([6, 6], dtype=torch.int32)
    wanted = plain(IDS, *(t[:, :, :6] for t in cross))
    torch.testing.assert_close(result(module, IDS, *cross, lengths), wanted)
