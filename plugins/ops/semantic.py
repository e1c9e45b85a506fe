"""Semantic operators: what a model means, kept whole through ``torch.export``.

Exporting straight to ATen buries attention under masks, ``repeat_kv`` and rotary arithmetic. The exporter emits these
operators in their place, and each backend's lowering passes give them TensorRT's form. Both are ordinary PyTorch
operators with real math on any device, so an exported graph runs and can be compared with the model it came from.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_weights_mask(
    queries: int, keys: int, *, causal: bool, sliding_window: int, device: torch.device, ahead: int = 0
) -> Tensor | None:
    """Boolean ``[queries, keys]``, True where attention is allowed; ``None`` when everything is.

    The last query stands at the last key. A sliding window of ``w`` lets query ``i`` see keys ``i - w < j <= i`` if it is causal,
    and ``i - w < j <= i + ahead`` if it is not.
    """
    if not causal and sliding_window <= 0:
        return None
    query_at = torch.arange(queries, device=device)[:, None] + (keys - queries)
    key_at = torch.arange(keys, device=device)[None, :]
    allowed = torch.ones(queries, keys, dtype=torch.bool, device=device)
    if causal:
        allowed = allowed & (key_at <= query_at)
    if sliding_window > 0:
        allowed = allowed & (key_at > query_at - sliding_window)
        if not causal:
            allowed = allowed & (key_at <= query_at + ahead)
    return allowed


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    softcap: float = 0.0,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention in float32 with grouped K/V heads: ``[B, Hq, S, D]`` from ``[B, Hq, S, D]`` and ``[B, Hkv, T, D]``.

    ``allowed`` is broadcastable to ``[B, 1, S, T]``; a row with nothing allowed gives zeros. ``bias``, broadcastable to
    ``[B, Hq, S, T]``, is added to the scaled scores. A sink, one of ``[Hq]``, is one more key of a head whose value is zero: its
    logit only enlarges the denominator.
    """
    batch, heads, queries, dim = query.shape
    groups = heads // key.shape[1]
    q = query.float().reshape(batch, key.shape[1], groups * queries, dim)
    scores = torch.matmul(q, key.float().transpose(-1, -2)) * scale
    if softcap > 0.0:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.reshape(batch, heads, queries, key.shape[2])
    if bias is not None:
        scores = scores + bias.float()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    if sinks is None:
        probabilities = torch.softmax(scores, dim=-1).nan_to_num(0.0)
    else:
        sink = sinks.float().reshape(1, -1, 1, 1).expand(batch, -1, queries, 1)
        probabilities = torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[..., :-1]
    probabilities = probabilities.reshape(batch, key.shape[1], groups * queries, key.shape[2])
    out = torch.matmul(probabilities, value.float())
    return out.reshape(batch, heads, queries, value.shape[-1]).to(query.dtype)


@torch.library.custom_op("tt_edge::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool = True,
    sliding_window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    ahead: int = 0,
) -> Tensor:
    """Scaled-dot-product attention as a decoder means it, over the tokens of one call.

    ``query`` ``[B, Hq, S, D]``, ``key`` and ``value`` ``[B, Hkv, S, D]`` with ``Hq`` a multiple of ``Hkv`` (heads are not
    repeated), result ``[B, Hq, S, D]``. ``sliding_window`` counts the tokens a query sees, itself included; 0 is
    unlimited. ``softcap`` bounds scores by ``softcap * tanh(score / softcap)``; 0 is off. ``sinks`` ``[Hq]`` adds one
    logit per head to the softmax's denominator (gpt-oss). ``bias`` ``[1, Hq, S, T]`` is added to the scaled scores (T5).
    Where it is not causal, a window ends ``ahead`` tokens after the query (T5Gemma's encoder).

    Cross-attention is the same with the keys and values ``[B, Hkv, T, D]`` of another sequence, and not causal.
    """
    allowed = attention_weights_mask(
        query.shape[2], key.shape[2], causal=causal, sliding_window=sliding_window, device=query.device, ahead=ahead
    )
    return grouped_attention(query, key, value, scale=scale, softcap=softcap, allowed=allowed, bias=bias, sinks=sinks)


@attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    causal: bool = True,
    sliding_window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
    ahead: int = 0,
) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::merged_attention", mutates_args=())
def merged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source_key: Tensor,
    source_value: Tensor,
    scale: float,
    sliding_window: int,
) -> Tensor:
    """Causal attention to the tokens of one call and to all of a source, in one softmax (T5Gemma 2).

    ``query``, ``key`` and ``value`` as for ``attention``; ``source_key`` and ``source_value`` ``[B, Hkv, T, D]``.
    The window is that of the call's own keys; 0 is unlimited.
    """
    own = attention_weights_mask(
        query.shape[2], key.shape[2], causal=True, sliding_window=sliding_window, device=query.device
    )
    assert own is not None
    allowed = torch.cat([own, own.new_ones(query.shape[2], source_key.shape[2])], dim=-1)
    keys, values = torch.cat([key, source_key], dim=2), torch.cat([value, source_value], dim=2)
    return grouped_attention(query, keys, values, scale=scale, allowed=allowed)


@merged_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source_key: Tensor,
    source_value: Tensor,
    scale: float,
    sliding_window: int,
) -> Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("tt_edge::relative_bias", mutates_args=())
def relative_bias(table: Tensor, queries: int, keys: int) -> Tensor:
    """T5's bias of attention scores, ``[1, H, queries, keys]``, of a call in which both begin at position 0.

    ``table`` ``[2 * N - 1, H]`` has the bias of each head for the distance key - query from -(N - 1) to N - 1. Beyond that,
    the nearest row holds.
    """
    distance = torch.arange(keys, device=table.device) - torch.arange(queries, device=table.device)[:, None]
    rows = (distance + table.shape[0] // 2).clamp(0, table.shape[0] - 1)
    return table[rows].permute(2, 0, 1)[None].contiguous()


@relative_bias.register_fake
def _(table: Tensor, queries: int, keys: int) -> Tensor:
    return table.new_empty(1, table.shape[1], queries, keys)


@torch.library.custom_op("tt_edge::segment_attention", mutates_args=())
def segment_attention(query: Tensor, key: Tensor, value: Tensor, segments: Tensor, scale: float) -> Tensor:
    """Attention among the tokens of one segment, as vision towers have it. All operands are ``[1, H, N, D]``.

    ``segments`` int32 ``[N]``: tokens of equal numbers see each other. ``[W, L]`` with ``W * L = N``: only those of one row do,
    which is how windows are computed without looking at the rest.
    """
    windows, length = segments.shape if segments.ndim == 2 else (1, segments.shape[0])
    q, k, v = (
        t.reshape(t.shape[1], windows, length, t.shape[3]).transpose(0, 1) for t in (query, key, value)
    )  # [W, H, L, D]
    rows = segments.reshape(windows, length)
    allowed = (rows[:, :, None] == rows[:, None, :])[:, None]
    out = grouped_attention(q, k, v, scale=scale, allowed=allowed)
    return out.transpose(0, 1).reshape(query.shape).contiguous()


@segment_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, segments: Tensor, scale: float) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def rotate(
    x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, others: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Rotate the leading ``2 * R`` of ``x``'s last dimension; ``cos`` and ``sin`` are ``[..., R]``, broadcastable.

    ``others`` are those of the second of each pair, where its angle is another.
    """
    cos_b, sin_b = others or (cos, sin)
    half = cos.shape[-1]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :half], turned[..., half:]
    a, b = first * cos - second * sin, second * cos_b + first * sin_b
    turned = torch.stack([a, b], dim=-1).flatten(-2) if interleaved else torch.cat([a, b], dim=-1)
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


@torch.library.custom_op("tt_edge::rotary_embedding", mutates_args=())
def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary position embedding of one tensor.

    ``x`` ``[B, H, S, D]``; ``cos`` and ``sin`` ``[B or 1, S, R]`` as the model's rotary module gives them: the first ``R / 2``
    columns are of the first of each pair, the others of the second (nearly always they repeat the first half). ``R < D``
    rotates only the leading ``R`` elements of each head (partial rotary). ``interleaved`` pairs neighbours (GPT-J) in place of
    halves (NeoX); then the second half of the columns is not read.
    """
    half = cos.shape[-1] // 2
    first, second = ([t[..., columns].unsqueeze(1) for t in (cos, sin)] for columns in (slice(half), slice(half, None)))
    others = None if interleaved else (second[0], second[1])
    return rotate(x, first[0], first[1], interleaved, others).contiguous()


@rotary_embedding.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
