from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import attention_module, context, ops, query_key_value, run, sharing_module
from tt_edge.errors import LoweringError, UnsupportedModelError
from tt_edge.lowering.decoder.insert_kv_cache import InsertKVCache


@pytest.mark.parametrize("window", [0, 3])
def test_chunks_over_the_cache_equal_one_whole_pass(window):
    module = attention_module(sliding_window=window)
    ctx = context()
    assert run(InsertKVCache(), module, ctx).matches == 1
    assert ctx.kv_cache == [("past_key_0", "present_key_0"), ("past_value_0", "present_value_0")]
    q, k, v = query_key_value(11, seed=1)
    want = torch.ops.tt_edge.attention(q, k, v, 0.25, True, window)
    past = [torch.full((2, 2, 64, 8), 1e4)] * 2  # garbage in the unused capacity must not be seen
    start, got = 0, []
    for size in (6, 1, 3, 1):
        part = slice(start, start + size)
        ids = torch.zeros(2, size, dtype=torch.int64)
        written = torch.full((2,), start, dtype=torch.int32)
        out, *past = module(ids, q[:, :, part], k[:, :, part], v[:, :, part], written, *past)
        got.append(out)
        start += size
    torch.testing.assert_close(torch.cat(got, dim=2), want)
    expected = "masked_attention" if window else "causal_attention"
    assert ops(module)[f"tt_edge.{expected}.default"] == 1
    assert ops(module)["tt_edge.kv_cache_update.default"] == 2


def test_layers_that_share_keys_and_values_have_one_cache():
    """The last layers of Gemma 3n."""
    module, ctx = sharing_module(), context(layers=2)
    assert run(InsertKVCache(), module, ctx).matches == 2
    assert ctx.kv_cache == [("past_key_0", "present_key_0"), ("past_value_0", "present_value_0")]
    counts = ops(module)
    assert counts["tt_edge.kv_cache_update.default"] == 2
    assert counts["tt_edge.causal_attention.default"] == counts["tt_edge.masked_attention.default"] == 1
    q, k, v = query_key_value(7, seed=3)
    want = sum(torch.ops.tt_edge.attention(q, k, v, 0.25, True, window) for window in (0, 3))
    past, zero = [torch.full((2, 2, 64, 8), 1e4)] * 2, torch.zeros(2, dtype=torch.int32)
    out, *_ = module(torch.zeros(2, 7, dtype=torch.int64), q, k, v, zero, *past)
    torch.testing.assert_close(out, want)


def test_padding_of_a_shorter_row_is_never_seen():
    module = attention_module()
    run(InsertKVCache(), module)
    q, k, v = query_key_value(6, seed=2)
    want = torch.ops.tt_edge.attention(q[1:, :, :4], k[1:, :, :4], v[1:, :, :4], 0.25)
    past = [torch.zeros(2, 2, 64, 8)] * 2
    zero = torch.zeros(2, dtype=torch.int32)
    out, *past = module(torch.zeros(2, 5, dtype=torch.int64), q[:, :, :5], k[:, :, :5], v[:, :, :5], zero, *past)
    torch.testing.assert_close(out[1:, :, :4], want)
    # Row 1 had four real tokens: its fifth, padding, is overwritten by the next call and must not be attended to.
    written = torch.tensor([5, 4], dtype=torch.int32)
    step = [t[:, :, 5:6].clone() for t in (q, k, v)]
    out, *_ = module(torch.zeros(2, 1, dtype=torch.int64), *step, written, *past)
    k2, v2 = (torch.cat([t[1:, :, :4], s[1:]], dim=2) for t, s in ((k, step[1]), (v, step[2])))
    q2 = torch.cat([q[1:, :, :4], step[0][1:]], dim=2)
    torch.testing.assert_close(out[1:], torch.ops.tt_edge.attention(q2, k2, v2, 0.25)[:, :, 4:])


def test_a_window_as_long_as_the_cache_is_plain_causal():
    module = attention_module(sliding_window=64)
    run(InsertKVCache(), module)
    assert ops(module)["tt_edge.causal_attention.default"] == 1


def test_a_missing_attention_is_fatal():
    module = attention_module()
    with pytest.raises(LoweringError, match=r"matched once, not 2 times \(decoder layers: 2\)"):
        run(InsertKVCache(), module, context(layers=2))


@pytest.mark.parametrize("window", [0, 3])
def test_bounded_scores_take_plain_layers(window):
    module = attention_module(softcap=0.5, sliding_window=window)
    run(InsertKVCache(), module)
    counts = ops(module)
    assert counts["tt_edge.capped_attention.default"] == counts["tt_edge.sliding_window_mask.default"] == 1
    q, k, v = query_key_value(7, seed=3)
    past, zero = [torch.full((2, 2, 64, 8), 1e4)] * 2, torch.zeros(2, dtype=torch.int32)
    out, *_ = module(torch.zeros(2, 7, dtype=torch.int64), q, k, v, zero, *past)
    torch.testing.assert_close(out, torch.ops.tt_edge.attention(q, k, v, 0.25, True, window, 0.5))


def test_what_iattention_lacks_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="non-causal"):
        run(InsertKVCache(), attention_module(causal=False))


@pytest.mark.parametrize("window", [0, 3])
def test_blocks_may_be_in_layers_with_windows_only(window):
    """Gemma 4: a causal layer does not read how far a token of an image sees; one with a window does."""
    module, ctx = attention_module(sliding_window=window), context()
    ctx.blocks = ctx.window_blocks = True
    run(InsertKVCache(), module, ctx)
    q, k, v = query_key_value(7, seed=3)
    past, zero = [torch.full((2, 2, 64, 8), 1e4)] * 2, torch.zeros(2, dtype=torch.int32)
    until = torch.tensor([1, 4, 4, 4, 5, 6, 7], dtype=torch.int32).expand(2, 7)  # tokens 1 to 3 see each other
    out, *_ = module(torch.zeros(2, 7, dtype=torch.int64), q, k, v, zero, until, *past)
    places = torch.arange(7)
    seen = places < until[0][:, None] if window else places <= places[:, None]
    seen = seen & (places > places[:, None] - (window or 7))
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=0.25, enable_gqa=True)
    torch.testing.assert_close(out, want)
