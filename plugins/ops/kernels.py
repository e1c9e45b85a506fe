"""The plugins' operators on a GPU: tt-edge's CUDA kernels, where their library is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from tt_edge.errors import MissingDependencyError
from tt_edge.plugins.cuda.library import Kernels, load_kernels
from tt_edge.plugins.cuda.tensors import AttentionCall, stream_of
from tt_edge.plugins.edgellm.contracts import CACHE, OWN_CONTRACT, OWN_HEAD_SIZES, Generation

_ACTIVATIONS = (torch.float16, torch.bfloat16)

#: Zeroed counters of decode by device and stream: each call leaves them zero.
_COUNTERS: dict[tuple[int, int], Tensor] = {}


@cache
def _kernels() -> Kernels | None:
    try:
        return load_kernels()
    except MissingDependencyError:
        return None


def kernels_for(x: Tensor) -> Kernels | None:
    """The library of kernels if it is built and computes with ``x``: a CUDA tensor in 16 bits."""
    return _kernels() if x.is_cuda and x.dtype in _ACTIVATIONS else None


def attention_kernels(contract: Generation, named: Mapping[str, Tensor], head_size: int) -> Kernels | None:
    """The library, if it computes a layer of this contract with these operands, by name."""
    rope, cached = named["rope_rotary_cos_sin"], named[CACHE]
    fits = not contract.paged and head_size in OWN_HEAD_SIZES and rope.shape[-1] % 16 == 0 and cached.is_contiguous()
    return kernels_for(next(iter(named.values()))) if fits else None


def run_attention(
    kernels: Kernels,
    contract: Generation,
    named: Mapping[str, Tensor],
    heads: tuple[int, int, int],
    scale: float,
    window: int,
    softcap: float,
    kv_scales: Sequence[float],
) -> Tensor:
    """Attention ``[B, S, Hq, D]``; the cache among ``named`` is updated in place. ``heads`` are Hq, Hkv and D.

    Only kernels are launched, so that a CUDA graph can capture it.
    """
    q_heads, kv_heads, size = heads
    first = next(iter(named.values()))
    batch, width = first.shape[:2]
    if contract.packed:
        packed = first.contiguous().view(batch, width, q_heads + 2 * kv_heads, size)
        q, k, v = torch.split(packed, [q_heads, kv_heads, kv_heads], dim=2)
    else:
        q, k, v = (named[name].contiguous().view(batch, width, -1, size) for name in ("q", "k", "v"))
    past, new, offset = _lengths(contract, named, width)
    device, stream = first.get_device(), stream_of(first)
    counters = _COUNTERS.get((device, stream))
    if counters is None or len(counters) < batch * kv_heads * q_heads:
        counters = torch.zeros(batch * kv_heads * q_heads, dtype=torch.int32, device=first.device)
        _COUNTERS[device, stream] = counters
    sinks = named.get("sinks")
    call = AttentionCall(
        kernels,
        q,
        k,
        v,
        named[CACHE],
        named["rope_rotary_cos_sin"],
        past_lengths=past,
        query_lengths=new,
        past_offset=offset,
        sinks=None if sinks is None else sinks.float(),
        scale=scale,
        softcap=softcap,
        window=max(window, 0),
        k_scale=kv_scales[0],
        v_scale=kv_scales[1],
        counters=counters,
    )
    return call.run()


def _lengths(contract: Generation, named: Mapping[str, Tensor], width: int) -> tuple[Tensor | None, Tensor | None, int]:
    """Past lengths, what to add to them, and numbers of new tokens: ``padded_rows`` of ``rows`` on the device."""
    if contract.version == OWN_CONTRACT:
        return named["past_lengths"], named["query_lengths"], 0
    lengths, starts = named["context_lengths"], named["kvcache_start_index"]
    if len(starts) == 0:
        return None, lengths, 0
    return (starts, lengths, 0) if width > 1 else (lengths, None, -1)
