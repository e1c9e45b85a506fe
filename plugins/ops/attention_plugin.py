"""``tt_edge::attention_plugin``: what the attention plugins compute, as PyTorch math on any device.

On CUDA tensors in 16 bits, with a contiguous cache, tt-edge's kernels compute it where they are built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tt_edge.number_formats import FP8_MAX
from tt_edge.plugins.edgellm.contracts import CACHE, GENERATIONS, PAGE_TOKENS, Generation
from tt_edge.plugins.edgellm.rows import Row, rows_of
from tt_edge.plugins.ops.kernels import attention_kernels, run_attention
from tt_edge.plugins.ops.semantic import grouped_attention, rotate


@torch.library.custom_op("tt_edge::attention_plugin", mutates_args=())
def attention_plugin(
    inputs: Sequence[Tensor],
    generation: str,
    num_q_heads: int,
    num_kv_heads: int,
    head_size: int,
    attention_scale: float,
    sliding_window_size: int = -1,
    qkv_scales: Sequence[float] | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """RoPE, KV cache and causal attention of one layer.

    ``inputs`` are those of ``GENERATIONS[generation]``, in order, sinks last if there are any; so are both results: the attention
    ``[B, S, Hq, D]`` (0.11: ``[T, Hq, D]``) and the cache. The plugin writes the cache in place; this operator returns a
    new one. ``sliding_window_size`` counts the tokens that a query sees, itself included; -1 is unlimited. Activations
    may be of any float type: libraries support only float16, parity checks use float32. Results for padding are zeros.
    In a cache of float8_e4m3fn, an element is multiplied by its scale, the second (keys) or third (values) of
    ``qkv_scales``. ``softcap`` bounds scores; 0 is off.
    """
    contract = GENERATIONS[generation]
    named = {o.name: x for o, x in zip(contract.operands(len(inputs)), inputs, strict=True)}
    q, k, v = _heads(contract, named, num_q_heads, num_kv_heads, head_size)
    cache, kv_scales = named[CACHE], tuple(qkv_scales[1:]) if qkv_scales else (1.0, 1.0)
    if (kernels := attention_kernels(contract, named, head_size)) is not None:
        named[CACHE] = cache.clone()
        sizes = (num_q_heads, num_kv_heads, head_size)
        attention = run_attention(
            kernels, contract, named, sizes, attention_scale, sliding_window_size, softcap, kv_scales
        )
        return attention, named[CACHE]
    stored, out = _by_place(contract, cache), torch.zeros_like(q)
    for index, row in enumerate(rows_of(contract, named)):
        places = _places(contract, cache, named, index)
        angles = _angles(contract, named, index, row)
        tokens, valid = slice(row.first, row.first + row.written), slice(row.first, row.first + row.valid)
        until = min(row.past + row.written, len(places[0]))  # what falls past the capacity is dropped
        for new, place, scale in zip((_rotated(k[tokens], angles), v[tokens]), places, kv_scales, strict=True):
            stored[place[row.past : until]] = _cached(new[: until - row.past], cache.dtype, scale)
        seen = [
            _uncached(stored[place[: row.past + row.valid]], q.dtype, scale).transpose(0, 1)[None]  # [1, Hkv, L, D]
            for place, scale in zip(places, kv_scales, strict=True)
        ]
        query = _rotated(q[tokens], angles)[: row.valid].transpose(0, 1)[None]
        allowed = _allowed(row, sliding_window_size, q.device)
        result = grouped_attention(
            query, *seen, scale=attention_scale, softcap=softcap, allowed=allowed, sinks=named.get("sinks")
        )
        out[valid] = result[0].transpose(0, 1)
    if contract.paged:
        cache = stored.reshape(cache.shape)
    else:
        batch, two, heads, capacity, size = cache.shape
        cache = stored.reshape(batch, two, capacity, heads, size).transpose(2, 3).contiguous()
    return out.reshape(*inputs[0].shape[:-1], num_q_heads, head_size), cache


@attention_plugin.register_fake
def _(
    inputs: Sequence[Tensor],
    generation: str,
    num_q_heads: int,
    num_kv_heads: int,
    head_size: int,
    *_settings: Any,
) -> tuple[Tensor, Tensor]:
    cache = inputs[GENERATIONS[generation].input_names.index(CACHE)]
    return inputs[0].new_empty(*inputs[0].shape[:-1], num_q_heads, head_size), torch.empty_like(cache)


@torch.library.custom_op("tt_edge::attention_plugin_in_place", mutates_args={"cache"})
def attention_plugin_in_place(
    inputs: Sequence[Tensor],
    cache: Tensor,
    generation: str,
    num_q_heads: int,
    num_kv_heads: int,
    head_size: int,
    attention_scale: float,
    sliding_window_size: int = -1,
    qkv_scales: Sequence[float] | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """``attention_plugin`` as an engine runs it: past and present cache are one tensor, which is not among ``inputs``.

    It waits for nothing where the kernels compute it, so that a CUDA graph can capture it.
    """
    contract = GENERATIONS[generation]
    operands = contract.operands(len(inputs) + 1)
    given = iter(inputs)
    named = {operand.name: cache if operand.name == CACHE else next(given) for operand in operands}
    settings = (attention_scale, sliding_window_size)
    if (kernels := attention_kernels(contract, named, head_size)) is not None:
        heads, kv_scales = (num_q_heads, num_kv_heads, head_size), tuple(qkv_scales[1:]) if qkv_scales else (1.0, 1.0)
        return run_attention(kernels, contract, named, heads, *settings, softcap, kv_scales)
    everything = list(named.values())
    out, present = attention_plugin(
        everything, generation, num_q_heads, num_kv_heads, head_size, *settings, qkv_scales, softcap
    )
    cache.copy_(present)
    result: Tensor = out
    return result


@attention_plugin_in_place.register_fake
def _(
    inputs: Sequence[Tensor],
    cache: Tensor,
    generation: str,
    num_q_heads: int,
    num_kv_heads: int,
    head_size: int,
    *_settings: Any,
) -> Tensor:
    return inputs[0].new_empty(*inputs[0].shape[:-1], num_q_heads, head_size)


def _heads(
    contract: Generation, named: dict[str, Tensor], q_heads: int, kv_heads: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Q ``[T, Hq, D]``, K and V ``[T, Hkv, D]``, tokens of all rows in one dimension."""
    counts = (q_heads, kv_heads, kv_heads)
    if contract.packed:
        parts = torch.split(named["qkv"], [count * size for count in counts], dim=-1)
    else:
        parts = (named["q"], named["k"], named["v"])
    q, k, v = (part.reshape(-1, count, size) for part, count in zip(parts, counts, strict=True))
    return q, k, v


def _angles(contract: Generation, named: dict[str, Tensor], index: int, row: Row) -> Tensor:
    """Cosines and sines of the row's tokens, float32 ``[written, rotary_dim]``."""
    rope = named["rope_rotary_cos_sin"]
    if contract.ragged:
        return rope[row.first : row.first + row.written]
    table = rope[index if len(rope) > 1 else 0]
    positions = torch.arange(row.past, row.past + row.written, device=rope.device)
    return table[positions.clamp(max=len(table) - 1)]  # only padding goes beyond the table


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """``x`` ``[n, H, D]`` rotated in float32, by halves."""
    half = angles.shape[-1] // 2
    return rotate(x.float(), angles[:, None, :half], angles[:, None, half:], interleaved=False).to(x.dtype)


def _cached(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    if dtype is not torch.float8_e4m3fn:
        return x
    return (x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(dtype)


def _uncached(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    return (x.float() * scale).to(dtype) if x.dtype is torch.float8_e4m3fn else x


def _by_place(contract: Generation, cache: Tensor) -> Tensor:
    """A copy of the cache with all tokens' places in one dimension: ``[places, Hkv, D]``."""
    return (cache if contract.paged else cache.transpose(2, 3)).flatten(0, 2).clone()


def _places(contract: Generation, cache: Tensor, named: dict[str, Tensor], index: int) -> tuple[Tensor, Tensor]:
    """Where the row's K and V of each position stand, as indices into ``_by_place``."""
    if contract.paged:
        starts = named["kv_page_table"][index].long() * PAGE_TOKENS  # [2, pages]
        places = starts[..., None] + torch.arange(PAGE_TOKENS, device=cache.device)
        return places[0].flatten(), places[1].flatten()
    capacity = cache.shape[3]
    positions = torch.arange(capacity, device=cache.device)
    return positions + 2 * index * capacity, positions + (2 * index + 1) * capacity


def _allowed(row: Row, window: int, device: torch.device) -> Tensor:
    """Boolean ``[valid, past + valid]``."""
    at = row.past + torch.arange(row.valid, device=device)[:, None]
    key = torch.arange(row.past + row.valid, device=device)
    allowed = key <= at
    return allowed & (key > at - window) if window > 0 else allowed
