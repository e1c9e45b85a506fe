"""Operators of the ``sdpa`` backend: a KV cache that goes into the network and out again as ordinary tensors.

``start`` and ``end`` are int64 ``[1]``: this call's tokens stand at ``start <= j < end`` in every row's cache. Shapes that
depend on them are known to TensorRT through shape tensors, and to PyTorch as unbacked sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import get_ctx


@torch.library.custom_op("tt_edge::static_cache_update", mutates_args=())
def static_cache_update(cache: Tensor, update: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """``cat(cache[:, :, :start], update, cache[:, :, end:])``.

    ``cache`` ``[B, H, capacity, D]``, ``update`` ``[B, H, S, D]`` with ``S = end - start``; as large as ``cache``.
    """
    return torch.cat([cache[:, :, : int(start)], update, cache[:, :, int(end) :]], dim=2)


@static_cache_update.register_fake
def _(cache: Tensor, update: Tensor, start: Tensor, end: Tensor) -> Tensor:
    return torch.empty_like(cache)


@torch.library.custom_op("tt_edge::cache_prefix", mutates_args=())
def cache_prefix(cache: Tensor, end: Tensor) -> Tensor:
    """``cache[:, :, :end]``: ``[B, H, capacity, D]`` to ``[B, H, end, D]``."""
    return cache[:, :, : int(end)].clone()


@cache_prefix.register_fake
def _(cache: Tensor, end: Tensor) -> Tensor:
    batch, heads, capacity, dim = cache.shape
    return cache.new_empty(batch, heads, get_ctx().new_dynamic_size(min=1, max=capacity), dim)


@torch.library.custom_op("tt_edge::append_to_prefix", mutates_args=())
def append_to_prefix(cache: Tensor, update: Tensor, start: Tensor) -> Tensor:
    """``cat(cache[:, :, :start], update)``: ``[B, H, capacity, D]`` and ``[B, H, S, D]`` to ``[B, H, start + S, D]``."""
    return torch.cat([cache[:, :, : int(start)], update], dim=2)


@append_to_prefix.register_fake
def _(cache: Tensor, update: Tensor, start: Tensor) -> Tensor:
    batch, heads, capacity, dim = cache.shape
    return cache.new_empty(batch, heads, get_ctx().new_dynamic_size(min=1, max=capacity), dim)


@torch.library.custom_op("tt_edge::causal_mask", mutates_args=())
def causal_mask(
    tokens: Tensor, start: Tensor | None, end: Tensor | None, window: int = 0, until: Tensor | None = None
) -> Tensor:
    """Boolean ``[1, 1, S, T]``: query ``i``, at ``p = start + i``, sees ``j <= p`` and, with a window, ``p - window < j``.

    ``S`` is that of ``tokens`` ``[B, S, …]``; ``T`` is ``end``, or ``S`` without a cache (``start`` and ``end`` ``None``).
    With ``until`` ``[B, 1, S, 1]`` int32, query ``i`` sees ``j < until`` instead, and the result is ``[B, 1, S, T]``.
    """
    queries, first = tokens.shape[1], 0 if start is None else int(start)
    keys = queries if end is None else int(end)
    at = first + torch.arange(queries, device=tokens.device)[:, None]
    key = torch.arange(keys, device=tokens.device)
    allowed = key <= at if until is None else key < until
    if window > 0:
        allowed = allowed & (key > at - window)
    return allowed if allowed.ndim == 4 else allowed[None, None]


@causal_mask.register_fake
def _(tokens: Tensor, start: Tensor | None, end: Tensor | None, window: int = 0, until: Tensor | None = None) -> Tensor:
    keys = tokens.shape[1] if end is None else get_ctx().new_dynamic_size(min=1)
    batch = 1 if until is None else until.shape[0]
    return tokens.new_empty(batch, 1, tokens.shape[1], keys, dtype=torch.bool)
