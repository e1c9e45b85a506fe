from __future__ import annotations

import numpy as np
import pytest
from building import evaluate
from oracle import assert_rounded, to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError


def rotate(x, cos, sin, interleaved):
    """[B, H, S, R] by complex multiplication: the pair (a, b) is a + ib."""
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
    else:
        a, b = x.chunk(2, -1)
    turned = torch.complex(a, b) * torch.complex(cos, sin)[:, None]
    parts = turned.real, turned.imag
    return torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("rotated", [0, 4])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_embedding(rng, normal, dtype, interleaved, rotated, indexed):
    x, half = normal(2, 3, 5, 8), (rotated or 8) // 2
    angle = rng.uniform(0, 6, (20, half))
    cos, sin = np.cos(angle).astype(dtype.numpy), np.sin(angle).astype(dtype.numpy)
    positions = rng.integers(0, 20, (2, 5))
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": rotated}
    if indexed:
        value = evaluate("ROTARY_EMBEDDING", x, cos, sin, positions, constants=(1, 2), **attributes)
    else:
        value = evaluate("ROTARY_EMBEDDING", x, cos[positions], sin[positions], **attributes)
    wide, size = to_torch(x, True), rotated or 8
    expected = rotate(wide[..., :size], to_torch(cos, True)[positions], to_torch(sin, True)[positions], interleaved)
    assert_rounded(value, torch.cat([expected, wide[..., size:]], -1), scale=2)


def test_positions_beyond_the_tables_are_refused(rng):
    table = np.zeros((4, 2), np.float32)
    with pytest.raises(InvalidInputError, match="position ids 0 to 4 but tables of 4"):
        evaluate("ROTARY_EMBEDDING", np.zeros((1, 1, 2, 4), np.float32), table, table, np.array([[0, 4]]))


UPDATE = {"cache_mode": "LINEAR", "update_form": "PADDED_BHND"}


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_cache_update_is_in_place(normal, index_type):
    cache, update, start = normal(3, 2, 8, 4), normal(3, 2, 3, 4), np.array([0, 5, 2], index_type)
    expected = cache.copy()
    for b in range(3):
        for s in range(3):
            expected[b, :, start[b] + s] = update[b, :, s]
    value = evaluate("KV_CACHE_UPDATE", cache, update, start, **UPDATE)
    assert value is cache
    np.testing.assert_array_equal(cache, expected)


def test_out_of_bounds_writes_are_ignored(normal):
    cache, update = normal(3, 2, 8, 4), normal(3, 2, 3, 4)
    before = cache.copy()
    evaluate("KV_CACHE_UPDATE", cache, update, np.array([6, 8, -2], np.int32), **UPDATE)
    np.testing.assert_array_equal(cache[0, :, 6:], update[0, :, :2])
    np.testing.assert_array_equal(cache[0, :, :6], before[0, :, :6])
    np.testing.assert_array_equal(cache[1], before[1])
    np.testing.assert_array_equal(cache[2, :, 0], update[2, :, 2])
    np.testing.assert_array_equal(cache[2, :, 1:], before[2, :, 1:])


def test_packed_update(normal):
    cache, update = normal(2, 2, 8, 4), normal(5, 2, 4)
    before = cache.copy()
    lengths = np.array([0, 3, 4], np.int32)
    evaluate(
        "KV_CACHE_UPDATE",
        cache,
        update,
        np.array([1, 7], np.int32),
        lengths,
        cache_mode="LINEAR",
        update_form="PACKED_NHD",
    )
    np.testing.assert_array_equal(cache[0, :, 1:4], update[:3].swapaxes(0, 1))
    np.testing.assert_array_equal(cache[1, :, 7], update[3])
    np.testing.assert_array_equal(cache[1, :, :7], before[1, :, :7])


def test_read_only_cache_is_refused(dtype):
    cache = np.zeros((1, 1, 4, 2), DType.FLOAT32.numpy)
    cache.flags.writeable = False
    with pytest.raises(InvalidInputError, match=r"\(KV_CACHE_UPDATE\) cannot be computed.*read-only"):
        evaluate("KV_CACHE_UPDATE", cache, np.ones((1, 1, 1, 2), np.float32), np.zeros(1, np.int32), **UPDATE)
