from __future__ import annotations

import numpy as np
import pytest
from building import evaluate
from oracle import assert_rounded, to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError
from tt_edge.network.reference import attention as attention_module


def attention(q, k, v, mask=None, scale=None, query_lengths=None, lengths=None, **attributes):
    attributes = {
        "norm_op": "SOFTMAX", "causal_kind": "NONE", "query_form": "PADDED_BHND", "key_value_form": "PADDED_BHND",
    } | attributes  # fmt: skip
    return evaluate("ATTENTION", q, k, v, mask, scale, query_lengths, lengths, **attributes)


def expected_rows(q, k, v, lengths, causal, mask=None):
    """One row after another, in float64, heads repeated as in Hugging Face's ``repeat_kv``."""
    q, k, v = (to_torch(t, True) for t in (q, k, v))
    rows = []
    for b, length in enumerate(lengths):
        groups = q.shape[1] // k.shape[1]
        keys, values = (t[b, :, :length].repeat_interleave(groups, 0) for t in (k, v))
        scores = q[b] @ keys.mT
        if mask is not None:
            scores = scores + mask[b if len(mask) > 1 else 0][..., :length]
        queries = q.shape[2]
        if causal != "NONE":
            offset = length - queries if causal == "LOWER_RIGHT" else 0
            seen = torch.arange(length) <= torch.arange(queries)[:, None] + offset
            scores = scores.masked_fill(~seen, -torch.inf)
        rows.append(torch.nan_to_num(scores.softmax(-1)) @ values)
    return torch.stack(rows)


@pytest.fixture
def qkv(normal):
    def make(batch=2, heads=6, kv_heads=2, queries=5, capacity=11, size=8):
        return normal(batch, heads, queries, size), *(normal(batch, kv_heads, capacity, size) for _ in range(2))

    return make


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize("causal", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
def test_grouped_heads_and_causal_kinds(qkv, heads, causal):
    q, k, v = qkv(heads=heads[0], kv_heads=heads[1])
    assert_rounded(attention(q, k, v, causal_kind=causal), expected_rows(q, k, v, [11, 11], causal), scale=3)


def test_scores_are_not_scaled():
    q = k = np.array([[[[3.0, 4.0]]]], np.float32)
    v = np.array([[[[1.0, 2.0]]]], np.float32)
    assert attention(q, k, v, norm_op="NONE").tolist() == [[[[25.0, 50.0]]]]


@pytest.mark.parametrize("causal", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
def test_ragged_key_value_lengths(qkv, causal):
    q, k, v = qkv(batch=3)
    lengths = np.array([11, 7, 5], np.int32)
    expected = expected_rows(q, k, v, lengths.tolist(), causal)
    k[1, :, 7:] = np.nan  # the unused part of a cache is never read
    v[2, :, 5:] = np.inf
    assert_rounded(attention(q, k, v, lengths=lengths, causal_kind=causal), expected, scale=3)


def test_a_query_that_sees_no_key_gives_zeros(qkv):
    q, k, v = qkv(batch=2)
    lengths = np.array([3, 0], np.int32)  # 5 queries at the end of 3 keys: the first two see nothing
    value = attention(q, k, v, lengths=lengths, causal_kind="LOWER_RIGHT")
    assert not value[0, :, :2].any()
    assert not value[1].any()
    assert_rounded(value, expected_rows(q, k, v, [3, 0], "LOWER_RIGHT"), scale=3)
    assert not attention(q, k, v, np.zeros((1, 1, 5, 11), bool)).any()


def test_lengths_beyond_the_cache_are_refused(qkv):
    with pytest.raises(InvalidInputError, match=r"key_value_lengths\[1\] = 12, outside the 11 tokens"):
        attention(*qkv(), lengths=np.array([11, 12], np.int32))


@pytest.mark.parametrize("shape", [(2, 6, 5, 11), (1, 6, 5, 11), (2, 1, 5, 11), (1, 1, 5, 11)])
def test_masks_broadcast(rng, qkv, dtype, shape):
    q, k, v = qkv()
    allowed = rng.random(shape) < 0.7
    allowed[..., 0] = True
    additive = torch.where(to_torch(allowed), 0.0, -torch.inf)
    assert_rounded(attention(q, k, v, allowed), expected_rows(q, k, v, [11, 11], "NONE", additive), scale=3)
    bias = rng.standard_normal(shape).astype(dtype.numpy)
    expected = expected_rows(q, k, v, [11, 11], "NONE", to_torch(bias, True))
    assert_rounded(attention(q, k, v, bias), expected, scale=3)


def test_mask_and_lengths_together(rng, qkv):
    q, k, v = qkv()
    allowed = rng.random((2, 1, 5, 11)) < 0.7
    allowed[..., 0] = True
    additive = torch.where(to_torch(allowed), 0.0, -torch.inf)
    value = attention(q, k, v, allowed, lengths=np.array([9, 4], np.int32))
    assert_rounded(value, expected_rows(q, k, v, [9, 4], "NONE", additive), scale=3)


@pytest.mark.parametrize("causal", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
def test_blocks_of_queries_change_nothing(rng, qkv, monkeypatch, causal):
    q, k, v = qkv(queries=9)
    allowed = rng.random((1, 6, 9, 11)) < 0.8
    allowed[..., 0] = True
    mask = allowed if causal == "NONE" else None
    whole = attention(q, k, v, mask, causal_kind=causal)
    monkeypatch.setattr(attention_module, "_BLOCK_SCORES", 6 * 11 * 2)
    np.testing.assert_allclose(
        attention(q, k, v, mask, causal_kind=causal).astype(np.float32), whole.astype(np.float32), rtol=1e-2, atol=1e-5
    )


@pytest.mark.parametrize("causal", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
def test_packed_rows_equal_padded_rows(normal, dtype, causal):
    q_lengths, kv_lengths = [3, 1, 4], [5, 2, 4]
    q_bounds, kv_bounds = (np.cumsum([0, *n]).astype(np.int32) for n in (q_lengths, kv_lengths))
    q, k, v = normal(10, 4, 8), normal(12, 2, 8), normal(12, 2, 8)  # two and one tokens beyond the last row
    value = attention(
        q, k, v, None, None, q_bounds, kv_bounds,
        causal_kind=causal, query_form="PACKED_NHD", key_value_form="PACKED_NHD",
    )  # fmt: skip
    for b in range(3):
        rows = slice(q_bounds[b], q_bounds[b + 1])
        keys = slice(kv_bounds[b], kv_bounds[b + 1])
        padded = (t.swapaxes(0, 1)[None] for t in (q[rows], k[keys], v[keys]))
        np.testing.assert_array_equal(value[rows], attention(*padded, causal_kind=causal)[0].swapaxes(0, 1))
    assert not value[8:].any()


def test_packed_queries_over_a_padded_cache(normal):
    q, k, v = normal(4, 4, 8), normal(2, 2, 9, 8), normal(2, 2, 9, 8)
    lengths = np.array([9, 6], np.int32)
    value = attention(
        q, k, v, None, None, np.array([0, 3, 4], np.int32), lengths, causal_kind="LOWER_RIGHT", query_form="PACKED_NHD"
    )
    first = attention(q[:3].swapaxes(0, 1)[None], k[:1], v[:1], lengths=lengths[:1], causal_kind="LOWER_RIGHT")
    np.testing.assert_array_equal(value[:3], first[0].swapaxes(0, 1))


def test_without_normalization_hidden_keys_contribute_nothing(qkv):
    q, k, v = qkv()
    value = attention(q, k, v, norm_op="NONE", causal_kind="UPPER_LEFT")
    wide_q, wide_k, wide_v = (to_torch(t, True) for t in (q, k, v))
    scores = (wide_q @ wide_k.repeat_interleave(3, 1).mT).tril()
    assert_rounded(value, scores @ wide_v.repeat_interleave(3, 1), scale=60)


@pytest.mark.parametrize("target", [DType.FP8, DType.INT8])
def test_quantized_probabilities(rng, target):
    q, k, v = (rng.standard_normal((1, 2, 6, 8)).astype(np.float32) for _ in range(3))
    scale = np.array(1 / 448 if target is DType.FP8 else 1 / 127, np.float32)
    value = attention(q, k, v, None, scale, normalization_quantize_to_type=target.name)
    exact = attention(q, k, v)
    # Each probability is off by half a step: 1/16 of itself in FP8 (and half its smallest step), scale / 2 in INT8.
    absolute = scale * (2.0**-10 if target is DType.FP8 else 0.5)
    relative = 1 / 16 if target is DType.FP8 else 0.0
    bound = relative * attention(q, k, np.abs(v)) + absolute * np.abs(v).sum(2, keepdims=True)
    assert (np.abs(value - exact) <= bound + 1e-5).all()
    assert (value != exact).any()
