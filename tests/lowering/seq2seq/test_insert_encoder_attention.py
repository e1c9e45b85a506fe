"""Attention among the tokens of a source."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.lowering.helpers import context, ops, run
from tests.lowering.seq2seq.graphs import IDS, TOKENS, graph, heads, result, semantic
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.seq2seq.insert_encoder_attention import InsertEncoderAttention


def test_an_encoder_sees_no_padding():
    def encoder(parameters, ids):
        q = heads(parameters, ids)
        bias = semantic.relative_bias(parameters.table, ids.shape[1], ids.shape[1])
        first = semantic.attention(q, q * 0.5, q + 1, 0.3, False, 0, 0.0, None, bias)
        return semantic.attention(first, q * 0.5, q + 1, 0.3, False, 0, 0.0, None, bias)

    module, plain = graph(encoder, IDS, dynamic=TOKENS, name="source_ids")
    short = plain(IDS[:, :5])
    assert run(InsertEncoderAttention("source_ids"), module).matches == 2
    found = ops(module)
    assert found["tt_edge.prefix_attention.default"] == 2
    assert found["tt_edge.relative_rows.default"] == 1  # both layers share it
    assert "tt_edge.attention.default" not in found
    assert "tt_edge.relative_bias.default" not in found
    out = result(module, IDS, torch.tensor([7, 5], dtype=torch.int32))
    torch.testing.assert_close(out[1, :, :5], short[1])


def test_an_encoder_of_fixed_size_needs_no_lengths():
    def encoder(parameters, ids):
        q = heads(parameters, ids)
        return semantic.attention(q, q * 0.5, q + 1, 0.3, False)

    module, plain = graph(encoder, IDS)
    assert run(InsertEncoderAttention(None), module).matches == 1
    assert ops(module)["tt_edge.full_attention.default"] == 1
    torch.testing.assert_close(result(module, IDS), plain(IDS))


#: Causal, window, softcap, sinks, bias, ahead; and the operator that attends.
LIMITS = {
    "window": ((False, 3, 0.0, None, None, 1), "masked_attention"),
    "window, softcap": ((False, 3, 2.0, None, None, 1), "capped_attention"),
    "softcap": ((False, 0, 2.0), "capped_attention"),
    "a window longer than any source": ((False, 16, 0.0, None, None, 15), "prefix_attention"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_an_encoder_with_a_window_or_a_softcap(name):
    settings, operator = LIMITS[name]

    def encoder(parameters, ids):
        q = heads(parameters, ids)
        first = semantic.attention(q, q * 0.5, q + 1, 0.3, *settings)
        return semantic.attention(first, q * 0.5, q + 1, 0.3, *settings)

    module, plain = graph(encoder, IDS, dynamic=TOKENS, name="source_ids")
    ctx = context()
    ctx.config = ctx.config.with_limits(replace(ctx.config.limits, max_source_len=16))
    assert run(InsertEncoderAttention("source_ids"), module, ctx).matches == 2
    found = ops(module)
    assert found[f"tt_edge.{operator}.default"] == 2
    assert found["tt_edge.prefix_mask.default"] == (operator != "prefix_attention")  # both layers share it
    out = result(module, IDS, torch.tensor([7, 5], dtype=torch.int32))
    torch.testing.assert_close(out[1, :, :5], plain(IDS[:, :5])[1])
    torch.testing.assert_close(out[0], plain(IDS)[0])


def test_a_causal_encoder_is_refused():
    def encoder(parameters, ids):
        q = heads(parameters, ids)
        return semantic.attention(q, q, q, 0.3, True)

    module, _ = graph(encoder, IDS, dynamic=TOKENS, name="source_ids")
    with pytest.raises(UnsupportedModelError, match="the encoder has attention that is causal or with sinks"):
        run(InsertEncoderAttention("source_ids"), module)


def test_a_bias_without_lengths_is_refused():
    """``full_attention`` has none: it was dropped."""

    def encoder(parameters, ids):
        q = heads(parameters, ids)
        bias = semantic.relative_bias(parameters.table, ids.shape[1], ids.shape[1])
        return semantic.attention(q, q, q, 0.3, False, 0, 0.0, None, bias)

    module, _ = graph(encoder, IDS)
    with pytest.raises(UnsupportedModelError, match="speech or pages has attention with a bias"):
        run(InsertEncoderAttention(None), module)
