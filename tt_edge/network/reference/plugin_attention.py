"""The computation of the attention plugins."""

from __future__ import annotations

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.plugins import plugin_fields
from tt_edge.network.reference.attention import attend
from tt_edge.network.reference.numerics import rounding, widening
from tt_edge.network.reference.registry import BoundLayer, Compute
from tt_edge.number_formats import FP8_MAX
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS, PAGE_TOKENS, Generation
from tt_edge.plugins.edgellm.rows import Row, rows_of

Arrays = dict[str, np.ndarray]


def attention_plugin(layer: BoundLayer) -> Compute:
    """RoPE, the cache update, and causal attention, by the layer's contract (``plugins/edgellm/contracts.py``).

    The cache is updated in place and is the second output. As in the plugin, K is rotated in float32 and rounded to the
    activations' type, then to the cache's, and attention reads the cached values. Results of padding are meaningless; here
    they are zeros.
    """
    version = str(layer.attribute("generation"))
    if version not in GENERATIONS:
        raise UnsupportedModelError(f"{layer} has the unknown contract {version}; known are {', '.join(GENERATIONS)}")
    generation = GENERATIONS[version]
    fields = {name: value for name, (_, value) in plugin_fields(layer.layer).items()}
    heads, kv_heads, size = (int(fields[n][0]) for n in ("num_q_heads", "num_kv_heads", "head_size"))
    scale = float(fields["attention_scale"][0]) if "attention_scale" in fields else size**-0.5
    window = int(fields["sliding_window_size"][0]) if "sliding_window_size" in fields else -1
    softcap = float(fields["softcap"][0]) if "softcap" in fields else 0.0
    _refuse_features(layer, fields)
    widen, store, write = widening(layer.dtype), rounding(layer.dtype), layer.writer()
    k_cache, v_cache = _cache_types(layer, fields)

    def compute(*inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        named = {o.name: x for o, x in zip(generation.operands(len(inputs)), inputs, strict=True)}
        cache = named[CACHE]
        if not cache.flags.c_contiguous:
            raise InvalidInputError(f"{layer} needs its cache in one piece; pass a contiguous array")
        q, k, v = _heads(generation, named, (heads, kv_heads, kv_heads), size)
        out = np.zeros(q.shape, np.float32)
        for index, row in enumerate(rows_of(generation, named)):
            tokens, valid = slice(row.first, row.first + row.written), slice(row.first, row.first + row.valid)
            angles = _angles(generation, named, index, row)
            keys, values = _stored(generation, named, index)
            keys.write(row.past, k_cache.store(store(_rotated(widen(k[tokens]), angles))))
            values.write(row.past, v_cache.store(v[tokens]))
            query = _rotated(widen(q[tokens]), angles)[: row.valid]
            query = widen(store(query)) * np.float32(scale)
            result = attend(
                query.swapaxes(0, 1),
                k_cache.read(keys.read(row.past + row.valid)).swapaxes(0, 1),
                v_cache.read(values.read(row.past + row.valid)).swapaxes(0, 1),
                _window_mask(row, window),
                row.past,
                True,
                None,
                softcap=softcap,
                sinks=named.get("sinks"),
            )
            out[valid] = result.swapaxes(0, 1)
        return write(out.reshape(*inputs[0].shape[:-1], heads, size)), cache

    return compute


class _CacheType:
    """How an element of the activations' type is stored in the cache: unchanged, or as E4M3 with a scale."""

    def __init__(self, activations: DType, scale: float | None) -> None:
        self._widen, self._scale = widening(activations), scale
        self._round = rounding(DType.FP8)

    def store(self, x: np.ndarray) -> np.ndarray:
        return x if self._scale is None else self._round(np.clip(self._widen(x) / self._scale, -FP8_MAX, FP8_MAX))

    def read(self, x: np.ndarray) -> np.ndarray:
        """Float32."""
        if self._scale is None:
            return self._widen(x)
        return widening(DType.FP8)(x) * np.float32(self._scale)  # type: ignore[no-any-return]


def _cache_types(layer: BoundLayer, fields: Arrays) -> tuple[_CacheType, _CacheType]:
    """The cache types of keys and of values."""
    if "k_scale" in fields:  # tt-edge's
        if layer.input(1).dtype is not DType.FP8:
            return _CacheType(layer.dtype, None), _CacheType(layer.dtype, None)
        k, v = (float(fields[name][0]) for name in ("k_scale", "v_scale"))
    elif "enable_fp8_kv_cache" not in fields or not fields["enable_fp8_kv_cache"].any():
        return _CacheType(layer.dtype, None), _CacheType(layer.dtype, None)
    else:
        _, k, v = (float(scale) for scale in fields["qkv_scales"])
    return _CacheType(layer.dtype, k), _CacheType(layer.dtype, v)


#: Features of the plugins that are computed here. NVIDIA's sinks are never set.
_COMPUTED = ("enable_fp8_kv_cache", "enable_attention_sink")


def _refuse_features(layer: BoundLayer, fields: Arrays) -> None:
    """Raise ``UnsupportedModelError`` for a feature that the converter never sets and that is not computed here."""
    for name, value in fields.items():
        feature = name.startswith("enable_") and name not in _COMPUTED
        if (feature or name == "skip_softmax_scale_factor") and value.any():
            raise UnsupportedModelError(
                f"{layer} has {name}, which the reference evaluator lacks; run an engine instead"
            )


def _heads(generation: Generation, named: Arrays, counts: tuple[int, int, int], size: int) -> list[np.ndarray]:
    """Q ``[T, Hq, D]``, K and V ``[T, Hkv, D]``, with the tokens of all sequences in one dimension."""
    if generation.packed:
        parts = np.split(named["qkv"], np.cumsum(counts)[:2] * size, axis=-1)
    else:
        parts = [named[name] for name in ("q", "k", "v")]
    return [part.reshape(-1, count, size) for part, count in zip(parts, counts, strict=True)]


def _angles(generation: Generation, named: Arrays, index: int, row: Row) -> np.ndarray:
    """Cosines and sines of the sequence's tokens, float32 ``[written, rotary_dim]``."""
    rope = named["rope_rotary_cos_sin"]
    if generation.ragged:
        return rope[row.first : row.first + row.written]
    table = rope[index if len(rope) > 1 else 0]
    positions = np.arange(row.past, row.past + row.written)
    return table[np.minimum(positions, len(table) - 1)]  # type: ignore[no-any-return]  # only padding exceeds the table


def _rotated(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Float32 ``[n, H, D]`` with the first ``rotary_dim`` elements rotated by halves."""
    half = angles.shape[1] // 2
    cos, sin = angles[:, None, :half], angles[:, None, half:]
    a, b = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)


class _Stored:
    """One sequence's keys or values in the cache, by position: ``[H, D]`` each."""

    def __init__(self, places: np.ndarray, at: np.ndarray | None = None) -> None:
        self.places, self.at = places, np.arange(len(places)) if at is None else at

    def write(self, past: int, new: np.ndarray) -> None:
        """Append ``new`` ``[n, H, D]`` to the past; tokens beyond the capacity are dropped."""
        at = self.at[past : past + len(new)]
        self.places[at] = new[: len(at)]

    def read(self, length: int) -> np.ndarray:
        return self.places[self.at[:length]]  # type: ignore[no-any-return]


def _stored(generation: Generation, named: Arrays, index: int) -> tuple[_Stored, _Stored]:
    """The sequence's keys and values, as views of the cache."""
    cache = named[CACHE]
    if not generation.paged:
        keys, values = cache[index].swapaxes(1, 2)  # [capacity, Hkv, D] each
        return _Stored(keys), _Stored(values)
    pool = cache.reshape(-1, *cache.shape[3:])  # [2 * pages * 128, Hkv, D]
    at = named["kv_page_table"][index][..., None] * PAGE_TOKENS + np.arange(PAGE_TOKENS)
    if at.size and not 0 <= at.min() <= at.max() < len(pool):
        raise InvalidInputError(f"kv_page_table names pages beyond the pool's {2 * cache.shape[1]}")
    return _Stored(pool, at[0].reshape(-1)), _Stored(pool, at[1].reshape(-1))


def _window_mask(row: Row, window: int) -> np.ndarray | None:
    """Boolean ``[1, valid, past + valid]``: keys within the window; ``None`` without a window."""
    if window <= 0:
        return None
    at = row.past + np.arange(row.valid)[:, None]
    return (np.arange(row.past + row.valid) > at - window)[None]
