"""ROTARY_EMBEDDING and KV_CACHE_UPDATE: the two other layers of TensorRT that exist for transformer decoders."""

from __future__ import annotations

import numpy as np

from tt_edge.errors import InvalidInputError
from tt_edge.network.reference.numerics import widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel


@kernel("ROTARY_EMBEDDING")
def rotary_embedding(layer: BoundLayer) -> Compute:
    """Rotate pairs of head dimensions by the angle of their position (NvInfer.h, ``addRotaryEmbedding``).

    Inputs: x [B, H, S, D], cos and sin, and optionally position ids [B, S]. With position ids, cos and sin are
    tables [positions, R / 2] that they index; without, [B, S, R / 2]. The first R = ``rotary_embedding_dim`` (0: D)
    dimensions are rotated, the rest pass. A pair is (i, i + R / 2), or (2i, 2i + 1) where ``interleaved``.
    """
    interleaved, dims = layer.flag("interleaved", False), layer.integer("rotary_embedding_dim", 0)
    indexed = layer.has_input(3)
    read_x, read_cos, read_sin = widening(layer.input(0).dtype), layer.reader(1), layer.reader(2)
    write = layer.writer()

    def angles(table: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
        """[B, 1, S, R / 2]."""
        return (table if positions is None else table[positions])[:, None]

    def compute(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        cos, sin = read_cos(cos), read_sin(sin)
        if indexed:
            assert positions is not None
            if positions.size and not 0 <= positions.min() <= positions.max() < len(cos):
                raise InvalidInputError(
                    f"{layer} has position ids {positions.min()} to {positions.max()} but tables of {len(cos)} "
                    "positions; shorten the sequence or compile with a larger maximum"
                )
        cos, sin = angles(cos, positions), angles(sin, positions)
        rotated = dims or x.shape[-1]
        half = rotated // 2
        first = slice(0, rotated, 2) if interleaved else slice(0, half)
        second = slice(1, rotated, 2) if interleaved else slice(half, rotated)
        wide = read_x(x)
        a, b = wide[..., first], wide[..., second]
        out = np.empty_like(wide) if rotated == x.shape[-1] else wide.copy()
        out[..., first] = a * cos - b * sin
        out[..., second] = b * cos + a * sin
        return write(out)

    return compute


@kernel("KV_CACHE_UPDATE")
def kv_cache_update(layer: BoundLayer) -> Compute:
    """Write new keys or values into the cache, in place (NvInfer.h, ``IKVCacheUpdateLayer``).

    Inputs: cache [B, H, capacity, D], update [B, H, S, D], write indices [B]. Token s of row b goes to position
    ``write_indices[b] + s``; positions outside the cache are dropped silently. With ``update_form`` PACKED_NHD the
    update is [tokens, H, D] and input 3 holds its cumulative lengths [B + 1]. The output is the cache's own memory.
    """
    layer.choose("cache_mode", {"LINEAR": None}, "LINEAR")
    packed = layer.choose("update_form", {"PADDED_BHND": False, "PACKED_NHD": True}, "PADDED_BHND")

    def compute(
        cache: np.ndarray, update: np.ndarray, write_indices: np.ndarray, update_lengths: np.ndarray | None = None
    ) -> np.ndarray:
        capacity = cache.shape[2]
        bounds = update_lengths.tolist() if packed and update_lengths is not None else None
        for row, start in enumerate(write_indices.tolist()):
            new = update[row] if bounds is None else update[bounds[row] : bounds[row + 1]].swapaxes(0, 1)
            first, last = max(start, 0), min(start + new.shape[1], capacity)
            if first < last:
                cache[row, :, first:last] = new[:, first - start : last - start]
        return cache

    return compute
