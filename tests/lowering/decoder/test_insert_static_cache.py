"""The sdpa backend's passes: operators before and after, the match count, and the same numbers."""

from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import attention_module, context, ops, query_key_value, run, sharing_module
from tt_edge.errors import LoweringError, UnsupportedModelError
from tt_edge.lowering.decoder.insert_static_cache import InsertStaticCache

CAPACITY = 64


def lowered(cache: str, **attention):
    module, ctx = attention_module(**attention), context(backend="sdpa", cache=cache)
    record = InsertStaticCache()(module, ctx)
    module.recompile()
    assert record.matches == 1
    return module, ctx


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("cache", ["static_v1", "static_v2"])
def test_chunks_over_the_cache_equal_one_whole_pass(cache, window):
    module, ctx = lowered(cache, sliding_window=window)
    names = [n.target for n in module.graph.find_nodes(op="placeholder")]
    assert names[4:] == ["start_idx", "end_idx", "past_key_0", "past_value_0"]
    assert ctx.kv_cache == [("past_key_0", "present_key_0"), ("past_value_0", "present_value_0")]
    q, k, v = query_key_value(11, seed=1)
    want = torch.ops.tt_edge.attention(q, k, v, 0.25, True, window)
    past = [torch.full((2, 2, CAPACITY, 8), float("nan"))] * 2  # what is not written yet must not be seen
    start, got = 0, []
    for size in (6, 1, 3, 1):
        part = slice(start, start + size)
        ids, bounds = torch.zeros(2, size, dtype=torch.int64), (torch.tensor([start]), torch.tensor([start + size]))
        out, *past = module(ids, q[:, :, part], k[:, :, part], v[:, :, part], *bounds, *past)
        got.append(out)
        start += size
    torch.testing.assert_close(torch.cat(got, dim=2), want)
    assert past[0].shape == (2, 2, CAPACITY, 8)
    torch.testing.assert_close(past[0][:, :, :11], k)
    counts = ops(module)
    assert counts["tt_edge.masked_attention.default"] == counts["tt_edge.causal_mask.default"] == 1
    assert counts["tt_edge.static_cache_update.default"] == 2
    assert counts["tt_edge.cache_prefix.default"] == (2 if cache == "static_v1" else 0)
    assert counts["tt_edge.append_to_prefix.default"] == (2 if cache == "static_v2" else 0)


@pytest.mark.parametrize("cache", ["static_v1", "static_v2"])
def test_layers_that_share_keys_and_values_have_one_cache(cache):
    module, ctx = sharing_module(), context(layers=2, backend="sdpa", cache=cache)
    assert run(InsertStaticCache(), module, ctx).matches == 2
    assert ctx.kv_cache == [("past_key_0", "present_key_0"), ("past_value_0", "present_value_0")]
    assert ops(module)["tt_edge.static_cache_update.default"] == 2
    q, k, v = query_key_value(7, seed=3)
    want = sum(torch.ops.tt_edge.attention(q, k, v, 0.25, True, window) for window in (0, 3))
    past = [torch.full((2, 2, CAPACITY, 8), float("nan"))] * 2
    out, *_ = module(torch.zeros(2, 7, dtype=torch.int64), q, k, v, torch.tensor([0]), torch.tensor([7]), *past)
    torch.testing.assert_close(out, want)


@pytest.mark.parametrize("window", [0, 3])
def test_without_a_cache(window):
    module, ctx = lowered("none", sliding_window=window)
    q, k, v = query_key_value(11, seed=1)
    out = module(torch.zeros(2, 11, dtype=torch.int64), q, k, v)[0]
    torch.testing.assert_close(out, torch.ops.tt_edge.attention(q, k, v, 0.25, True, window))
    assert len(list(module.graph.find_nodes(op="placeholder"))) == 4
    assert ctx.kv_cache == []


def test_a_missing_attention_is_fatal():
    with pytest.raises(LoweringError, match=r"matched once, not 2 times \(decoder layers: 2\)"):
        InsertStaticCache()(attention_module(), context(layers=2, backend="sdpa"))


def test_what_attention_layers_cannot_express_is_refused():
    with pytest.raises(UnsupportedModelError, match="non-causal"):
        InsertStaticCache()(attention_module(causal=False), context(backend="sdpa"))
