"""The image-feature cache: its budget, its order, its keys; and threads that share it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tt_edge.runtime.multimodal.feature_cache import FeatureCache


def features(rows: int = 4) -> dict[str, np.ndarray]:
    """``rows`` of 32 bytes."""
    return {"image_features": np.ones((rows, 8), np.float32)}


def names(cache: FeatureCache) -> list[str]:
    return [name for name in "abcdef" if ("", name) in cache.find([("", name)])]


def test_the_least_recently_used_goes_first():
    cache = FeatureCache(3 * 128)
    for name in "abc":
        cache.add(("", name), features())
    cache.find([("", "a")])
    cache.add(("", "d"), features())
    assert names(cache) == ["a", "c", "d"]
    assert (cache.stats.images, cache.stats.nbytes, cache.stats.evictions) == (3, 384, 1)


def test_room_is_made_before_features_are_computed():
    cache = FeatureCache(3 * 128)
    for name in "abc":
        cache.add(("", name), features())
    cache.make_room(256)
    assert (names(cache), cache.stats.nbytes) == (["c"], 128)


def test_what_never_fits_evicts_nothing():
    cache = FeatureCache(128)
    cache.add(("", "a"), features())
    cache.make_room(129)
    cache.add(("", "b"), features(5))
    assert names(cache) == ["a"]
    assert cache.stats.evictions == 0


def test_no_budget_keeps_nothing():
    cache = FeatureCache(0)
    cache.make_room(128)
    cache.add(("", "a"), features())
    assert cache.stats.images == 0


def test_the_same_image_twice_is_kept_once():
    cache = FeatureCache()
    cache.add(("", "a"), features())
    cache.add(("", "a"), features())
    assert (cache.stats.images, cache.stats.nbytes) == (1, 128)
    cache.clear()
    assert (cache.stats.images, cache.stats.nbytes) == (0, 0)


def test_salts_are_apart():
    cache = FeatureCache()
    cache.add(("one", "a"), features())
    assert not cache.find([("two", "a"), ("", "a")])


def test_kept_features_cannot_be_written():
    cache = FeatureCache()
    cache.add(("", "a"), features())
    [kept] = cache.find([("", "a")]).values()
    with pytest.raises(ValueError, match="read-only"):
        kept["image_features"][0] = 2


def test_threads_keep_the_budget():
    cache = FeatureCache(8 * 128)

    def use(seed: int) -> int:
        random, most = np.random.default_rng(seed), 0
        for _ in range(300):
            key = ("", str(random.integers(20)))
            if not cache.find([key]):
                rows = int(random.integers(1, 9))
                cache.make_room(rows * 32)
                cache.add(key, features(rows))
            most = max(most, cache.stats.nbytes)
        return most

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(use, range(8))) <= 8 * 128
    kept = cache.find([("", str(number)) for number in range(20)])
    assert cache.stats.nbytes == sum(array.nbytes for each in kept.values() for array in each.values())
