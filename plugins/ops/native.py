"""Operators that stand for TensorRT layers, or tight groups of them, in a lowered graph.

Lowering passes emit them; ``plugins.converters.native`` turns each into network layers. Each has the layer's own
semantics as real PyTorch math, so a lowered graph can be run and compared with the exported one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import get_ctx

from tt_edge.plugins.ops.semantic import grouped_attention, rotate


@torch.library.custom_op("tt_edge::rotary_from_table", mutates_args=())
def rotary_from_table(
    x: Tensor, cos_table: Tensor, sin_table: Tensor, position_ids: Tensor, interleaved: bool = False
) -> Tensor:
    """``IRotaryEmbeddingLayer``: ``x`` ``[B, H, S, D]``, tables ``[max_positions, R / 2]``, positions ``[B, S]`` int64."""
    cos, sin = (table[position_ids].unsqueeze(1) for table in (cos_table, sin_table))
    return rotate(x, cos, sin, interleaved).contiguous()


@rotary_from_table.register_fake
def _(x: Tensor, cos_table: Tensor, sin_table: Tensor, position_ids: Tensor, interleaved: bool = False) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("tt_edge::axis_rows", mutates_args=())
def axis_rows(table: Tensor, position_ids: Tensor, axes: Sequence[int]) -> Tensor:
    """Rows of a table by positions of several axes: column ``c`` of the result is that of axis ``axes[c]``'s position.

    ``table`` ``[max_positions, R]``, ``position_ids`` ``[A, B, S]`` int64, ``axes`` R numbers below A; ``[B, S, R]``.
    """
    rows = table[position_ids]  # [A, B, S, R]
    return rows[list(axes), ..., list(range(table.shape[1]))].movedim(0, -1).contiguous()


@axis_rows.register_fake
def _(table: Tensor, position_ids: Tensor, axes: Sequence[int]) -> Tensor:
    return table.new_empty(*position_ids.shape[1:], table.shape[1])


@torch.library.custom_op("tt_edge::rotary_from_rows", mutates_args=())
def rotary_from_rows(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """``IRotaryEmbeddingLayer`` without position ids: ``x`` ``[B, H, S, D]``, ``cos`` and ``sin`` ``[B, S, R / 2]``."""
    return rotate(x, cos.unsqueeze(1), sin.unsqueeze(1), interleaved).contiguous()


@rotary_from_rows.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("tt_edge::kv_cache_update", mutates_args=())
def kv_cache_update(cache: Tensor, update: Tensor, write_indices: Tensor) -> Tensor:
    """``IKVCacheUpdateLayer`` in linear mode: row ``b`` of ``update`` goes to ``cache[b, :, write_indices[b]:]``.

    ``cache`` ``[B, H, capacity, D]``, ``update`` ``[B, H, S, D]``, ``write_indices`` ``[B]`` int32. TensorRT updates in
    place; this operator returns a new cache. Like TensorRT, it drops what falls past the capacity.
    """
    out = cache.clone()
    for row, start in enumerate(write_indices.tolist()):
        stop = min(start + update.shape[2], cache.shape[2])
        out[row, :, start:stop] = update[row, :, : stop - start]
    return out


@kv_cache_update.register_fake
def _(cache: Tensor, update: Tensor, write_indices: Tensor) -> Tensor:
    return torch.empty_like(cache)


@torch.library.custom_op("tt_edge::kv_lengths", mutates_args=())
def kv_lengths(write_indices: Tensor, tokens: Tensor) -> Tensor:
    """Valid cache length of each row after this call: ``write_indices`` ``[B]`` plus the ``S`` of ``tokens`` ``[B, S, …]``."""
    return write_indices + tokens.shape[1]


@kv_lengths.register_fake
def _(write_indices: Tensor, tokens: Tensor) -> Tensor:
    return torch.empty_like(write_indices)


@torch.library.custom_op("tt_edge::sliding_window_mask", mutates_args=())
def sliding_window_mask(
    write_indices: Tensor, tokens: Tensor, capacity: int, window: int, until: Tensor | None = None
) -> Tensor:
    """Boolean ``[B, 1, S, capacity]``: query ``i`` of row ``b``, at ``p = write_indices[b] + i``, sees ``p - window < j <= p``.

    With ``until`` ``[B, 1, S, 1]`` int32 it sees ``p - window < j < until`` instead.
    """
    at = write_indices[:, None, None, None] + torch.arange(tokens.shape[1], device=tokens.device)[:, None]
    keys = torch.arange(capacity, device=tokens.device)
    return (keys <= at if until is None else keys < until) & (keys > at - window)


@sliding_window_mask.register_fake
def _(write_indices: Tensor, tokens: Tensor, capacity: int, window: int, until: Tensor | None = None) -> Tensor:
    return tokens.new_empty(write_indices.shape[0], 1, tokens.shape[1], capacity, dtype=torch.bool)


@torch.library.custom_op("tt_edge::causal_attention", mutates_args=())
def causal_attention(query: Tensor, key: Tensor, value: Tensor, key_value_lengths: Tensor) -> Tensor:
    """``IAttention``, causal with its diagonal at the lower right, over a padded cache.

    ``query`` ``[B, Hq, S, D]``, already scaled; ``key`` and ``value`` ``[B, Hkv, capacity, D]``, of which row ``b`` has
    ``key_value_lengths[b]`` valid positions. Query ``i`` sees ``j <= key_value_lengths[b] - S + i``.
    """
    positions = torch.arange(query.shape[2], device=query.device)[:, None]
    limit = key_value_lengths[:, None, None, None] - query.shape[2] + positions
    allowed = torch.arange(key.shape[2], device=query.device) <= limit
    return grouped_attention(query, key, value, scale=1.0, allowed=allowed)


@causal_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, key_value_lengths: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::masked_attention", mutates_args=())
def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """``IAttention`` with a mask ``[B, 1 or Hq, S, T]``: booleans (True is seen), or numbers that are added to the scores.

    ``query`` is already scaled.
    """
    if mask.dtype == torch.bool:
        return grouped_attention(query, key, value, scale=1.0, allowed=mask)
    return grouped_attention(query, key, value, scale=1.0, bias=mask)


@masked_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::full_attention", mutates_args=())
def full_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``IAttention`` in which every query sees every key; ``query`` is already scaled."""
    return grouped_attention(query, key, value, scale=1.0)


@full_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::prefix_attention", mutates_args=())
def prefix_attention(
    query: Tensor, key: Tensor, value: Tensor, key_value_lengths: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``IAttention`` in which every query sees the first ``key_value_lengths[b]`` keys of its row; ``query`` is already scaled.

    ``key`` and ``value`` ``[B, Hkv, T, D]``, of which the rest is padding. ``bias`` ``[1, Hq, S, T]`` is added to the scores.
    """
    allowed = torch.arange(key.shape[2], device=key.device) < key_value_lengths[:, None, None, None]
    return grouped_attention(query, key, value, scale=1.0, allowed=allowed, bias=bias)


@prefix_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, key_value_lengths: Tensor, bias: Tensor | None = None) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::prefix_mask", mutates_args=())
def prefix_mask(query: Tensor, key: Tensor, lengths: Tensor, window: int, ahead: int) -> Tensor:
    """Boolean ``[B, 1, S, T]``: query ``i`` of row ``b`` sees the keys ``j < lengths[b]`` with ``i - window < j <= i + ahead``.

    S and T are those of ``query`` ``[B, Hq, S, D]`` and ``key`` ``[B, Hkv, T, D]``; ``lengths`` int32 ``[B]``. ``window`` 0 is
    unlimited, on both sides.
    """
    queries = torch.arange(query.shape[2], device=query.device)[:, None]
    keys = torch.arange(key.shape[2], device=query.device)
    seen = (keys < lengths[:, None, None, None]).expand(-1, 1, query.shape[2], -1)
    return (seen & (keys > queries - window) & (keys <= queries + ahead) if window else seen).contiguous()


@prefix_mask.register_fake
def _(query: Tensor, key: Tensor, lengths: Tensor, window: int, ahead: int) -> Tensor:
    return query.new_empty(lengths.shape[0], 1, query.shape[2], key.shape[2], dtype=torch.bool)


@torch.library.custom_op("tt_edge::relative_rows", mutates_args=())
def relative_rows(
    table: Tensor, tokens: Tensor, start: Tensor | None, end: Tensor | None, capacity: int, origin: int
) -> Tensor:
    """Rows of ``table`` ``[R, H]`` by the distance key - query, as numbers to add to attention scores: ``[B or 1, H, S, T]``.

    Distance d has row ``d + origin``; beyond the table, the nearest row holds. Query ``i`` of row ``b`` stands at
    ``start[b] + i``, with ``start`` ``[B]`` int32 or ``[1]`` int64, 0 if ``None``; S is that of ``tokens`` ``[B, S]``. Keys stand
    at 0 to T - 1, with T ``capacity``, or if that is 0 ``end`` (int64 ``[1]``), or if that is ``None`` S.
    """
    queries = torch.arange(tokens.shape[1], device=tokens.device)[None]
    if start is not None:
        queries = queries + start[:, None]
    keys = torch.arange(capacity or (tokens.shape[1] if end is None else int(end)), device=tokens.device)
    rows = (keys - queries[..., None] + origin).clamp(0, table.shape[0] - 1)  # [B or 1, S, T]
    return table[rows].permute(0, 3, 1, 2).contiguous()


@relative_rows.register_fake
def _(table: Tensor, tokens: Tensor, start: Tensor | None, end: Tensor | None, capacity: int, origin: int) -> Tensor:
    keys = capacity or (tokens.shape[1] if end is None else get_ctx().new_dynamic_size(min=1))
    return table.new_empty(1 if start is None else start.shape[0], table.shape[1], tokens.shape[1], keys)


@torch.library.custom_op("tt_edge::capped_attention", mutates_args=())
def capped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, softcap: float) -> Tensor:
    """As ``masked_attention``, with scores bounded to ``softcap * tanh(score / softcap)`` (Gemma 2).

    ``IAttention`` has no place for this, so it becomes matrix multiplies around a softmax.
    """
    return grouped_attention(query, key, value, scale=1.0, softcap=softcap, allowed=mask)


@capped_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, softcap: float) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::rms_normalize", mutates_args=())
def rms_normalize(x: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x²) + eps)`` over the last dimension, in the type of ``x``; the core of every RMSNorm."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@rms_normalize.register_fake
def _(x: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("tt_edge::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: ``[..., K]``, ``[N, K]`` and ``[N]`` to ``[..., N]``, as one matrix multiply."""
    return torch.nn.functional.linear(x, weight, bias)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("tt_edge::gather_last_token", mutates_args=())
def gather_last_token(x: Tensor, last_token_indices: Tensor) -> Tensor:
    """Row ``b``'s element ``last_token_indices[b]``: ``[B, S, H]`` and ``[B]`` int64 to ``[B, H]``."""
    return x[torch.arange(x.shape[0], device=x.device), last_token_indices]


@gather_last_token.register_fake
def _(x: Tensor, last_token_indices: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2])


@torch.library.custom_op("tt_edge::top_logits", mutates_args=())
def top_logits(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` largest of float32 ``logits`` ``[B, V]``, largest first, and the log-sum-exp over all of them.

    Returns values ``[B, count]`` float32, token ids ``[B, count]`` int32, and ``[B]`` float32, which is NaN or infinite where a
    logit is. Of equal logits the lower id comes first; TensorRT does not say which.
    """
    values, ids = torch.sort(logits, stable=True, dim=-1, descending=True)
    return values[:, :count].contiguous(), ids[:, :count].int().contiguous(), torch.logsumexp(logits, -1)


@top_logits.register_fake
def _(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    values = logits.new_empty(logits.shape[0], count)
    return values, torch.empty_like(values, dtype=torch.int32), logits.new_empty(logits.shape[0])


@torch.library.custom_op("tt_edge::shuffle", mutates_args=())
def shuffle(x: Tensor, first: Sequence[int], dims: Sequence[int], second: Sequence[int]) -> Tensor:
    """``IShuffleLayer``: permute by ``first``, reshape to ``dims``, permute by ``second``.

    In ``dims`` 0 copies the dimension at the same index and one -1 takes what is left, as in TensorRT.
    """
    x = x.permute(*first)
    x = x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(dims)])
    return x.permute(*second).clone(memory_format=torch.contiguous_format)


@shuffle.register_fake
def _(x: Tensor, first: Sequence[int], dims: Sequence[int], second: Sequence[int]) -> Tensor:
    x = x.permute(*first)
    x = x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(dims)])
    return torch.empty_like(x.permute(*second), memory_format=torch.contiguous_format)
