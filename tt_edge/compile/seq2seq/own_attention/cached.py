"""Keys and values from transformers' caches of an encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache


def keys_and_values(
    caches: Any, layer: int, is_cross: bool, made: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Keys and values ``[B, H, T, D]`` of a layer: what is ``made`` now, behind what ``caches`` have, if they are given.

    Those of a source are made by the first call only.
    """
    cache, is_both = caches, isinstance(caches, EncoderDecoderCache)
    if is_both:
        cache = caches.cross_attention_cache if is_cross else caches.self_attention_cache
        if is_cross and caches.is_updated.get(layer):
            return cache.layers[layer].keys, cache.layers[layer].values
    key, value = made()
    if cache is not None:
        key, value = cache.update(key, value, layer)
        if is_cross and is_both:
            caches.is_updated[layer] = True
    return key, value
