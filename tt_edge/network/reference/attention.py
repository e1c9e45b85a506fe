"""ATTENTION: grouped-query attention over padded or packed sequences, with a partly filled cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError
from tt_edge.network.reference.numerics import Converter, namespace, widening
from tt_edge.network.reference.quantization import fake_quantizer
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

#: Maximum number of attention scores held at once; long prompts are processed in blocks of queries.
_BLOCK_SCORES = 1 << 22

_LOWEST = np.finfo(np.float32).min
_TINY = np.finfo(np.float32).tiny
_FORMS = {"PADDED_BHND": False, "PACKED_NHD": True}

# By TensorRT's name of the type and by ours.
_QUANTIZED = {"FP8": DType.FP8, "INT8": DType.INT8, DType.FP8.value: DType.FP8, DType.INT8.value: DType.INT8}

#: From a sequence's query and key lengths, the last key that query 0 may see; query i sees i more. None: no causal mask.
Diagonal = Callable[[int, int], int] | None

_DIAGONALS: dict[str, Diagonal] = {
    "NONE": None,
    "UPPER_LEFT": lambda queries, keys: 0,
    "LOWER_RIGHT": lambda queries, keys: keys - queries,
}


def _normalize_(scores: np.ndarray, sinks: np.ndarray | None = None) -> None:
    """Softmax over the last axis of ``[Hq, S, L]``, in place; a row that is fully masked (all -inf) becomes zeros.

    ``sinks`` ``[Hq]`` are logits that only enlarge the denominator.
    """
    peak = scores.max(-1, keepdims=True)
    if sinks is not None:
        np.maximum(peak, sinks[:, None, None], out=peak)
    np.maximum(peak, _LOWEST, out=peak)  # -inf less -inf would be NaN
    np.subtract(scores, peak, out=scores)
    np.exp(scores, out=scores)
    total = scores.sum(-1, keepdims=True)
    if sinks is not None:
        total += np.exp(sinks[:, None, None] - peak)
    np.maximum(total, _TINY, out=total)
    np.divide(scores, total, out=scores)


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    mask: np.ndarray | None,
    diagonal: int | None,
    softmax: bool,
    quantize: Converter | None,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """Attention of one sequence, all float32.

    ``query`` is [Hq, S, D], ``key`` and ``value`` [Hkv, L, D] with Hq a multiple of Hkv: query head h reads key head
    h // (Hq / Hkv). ``mask`` broadcasts to [Hq, S, L]: booleans allow, floats are added. ``diagonal`` is the last key
    that query 0 may see. Scores are not scaled, but bounded to ``softcap * tanh(score / softcap)`` unless it is 0. ``sinks`` [Hq]
    are logits that only enlarge the softmax's denominator. Returns [Hq, S, D].
    """
    heads, queries, size = query.shape
    groups, keys = key.shape[:2]
    block = max(1, _BLOCK_SCORES // max(1, heads * keys))
    if queries > block:
        parts = []
        for first in range(0, queries, block):
            rows = slice(first, first + block)
            part = mask if mask is None or mask.shape[1] == 1 else mask[:, rows]
            shifted = None if diagonal is None else diagonal + first
            parts.append(attend(query[:, rows], key, value, part, shifted, softmax, quantize, softcap, sinks))
        return np.concatenate(parts, 1)
    if diagonal is not None and diagonal + queries < keys:  # no query sees beyond the last one's diagonal
        keys = max(diagonal + queries, 0)
        key, value = key[:, :keys], value[:, :keys]
        if mask is not None and mask.shape[2] != 1:
            mask = mask[:, :, :keys]
    if keys == 0:
        return np.zeros_like(query)

    folded = query.reshape(groups, -1, size)  # [Hkv, Hq / Hkv * S, D]: one product for each key head
    scores = np.matmul(folded, key.swapaxes(1, 2)).reshape(heads, queries, keys)
    if softcap > 0.0:
        scores = np.tanh(scores / np.float32(softcap)) * np.float32(softcap)
    blocked = -np.inf if softmax else 0.0
    if mask is not None:
        if mask.dtype == bool:
            np.copyto(scores, blocked, where=~mask)
        else:
            scores += mask
    if diagonal is not None and diagonal < keys - 1:
        xp = namespace(scores)
        hidden = xp.arange(keys) > xp.arange(diagonal, diagonal + queries)[:, None]
        np.copyto(scores, blocked, where=hidden)
    if softmax:
        _normalize_(scores, sinks)
    if quantize is not None:
        scores = quantize(scores)
    out: np.ndarray = np.matmul(scores.reshape(groups, -1, keys), value)
    return out.reshape(heads, queries, size)


Row = tuple[int, slice]


def _rows(layer: BoundLayer, x: np.ndarray, packed: bool, lengths: np.ndarray | None) -> Iterator[Row]:
    """For each sequence of the batch: (index into a padded tensor's batch, its range of tokens).

    Packed tensors are [tokens, H, D] with cumulative ``lengths`` [batch + 1]; padded ones [B, H, tokens, D] with
    ``lengths`` [B], if given, counting the tokens in use.
    """
    if packed:
        if lengths is None:
            raise InvalidInputError(f"{layer} has packed tokens but no lengths; set the cumulative lengths input")
        bounds = lengths.tolist()
        for row, (first, last) in enumerate(itertools.pairwise(bounds)):
            yield row, slice(first, last)
        return
    capacity = x.shape[2]
    counts = [capacity] * x.shape[0] if lengths is None else lengths.tolist()
    for row, count in enumerate(counts):
        if not 0 <= count <= capacity:
            raise InvalidInputError(
                f"{layer} has key_value_lengths[{row}] = {count}, outside the {capacity} tokens of its key; "
                "shorten the sequence or compile with a larger maximum"
            )
        yield row, slice(0, count)


@kernel("ATTENTION")
def attention(layer: BoundLayer) -> Compute:
    """``normalize(query @ key^T + mask) @ value`` (NvInfer.h, ``IAttention``); nothing scales the scores.

    Inputs: query, key, value, then optionally mask, normalization_quantize_scale, query_lengths, key_value_lengths.
    PADDED_BHND tensors are [B, H, tokens, D]; PACKED_NHD ones [tokens, H, D] with cumulative lengths [B + 1]. For
    padded keys, key_value_lengths [B] says how many are in use; the rest is never read.

    ``causal_kind`` UPPER_LEFT lets query i see keys j <= i; LOWER_RIGHT j <= i + (keys - queries), both counted in
    the sequence, keys from key_value_lengths. Where TensorRT does not define the result, this returns zeros: for a query
    that sees no key, and for packed queries beyond the last sequence. With ``norm_op`` NONE a masked key contributes nothing.
    """
    diagonal_of = layer.choose("causal_kind", _DIAGONALS, "NONE")
    softmax = layer.choose("norm_op", {"SOFTMAX": True, "NONE": False}, "SOFTMAX")
    packed_query = layer.choose("query_form", _FORMS, "PADDED_BHND")
    packed_keys = layer.choose("key_value_form", _FORMS, "PADDED_BHND")
    widen_query, widen_key, widen_value = (widening(layer.input(i).dtype) for i in range(3))
    write = layer.writer()
    quantize_to = None
    if layer.has_input(4):
        quantize_to = layer.choose("normalization_quantize_to_type", _QUANTIZED)
    widen_mask: Converter | None = None
    if layer.has_input(3) and layer.input(3).dtype is not DType.BOOL:
        widen_mask = widening(layer.input(3).dtype)

    def tokens(x: np.ndarray, packed: bool, row: Row) -> np.ndarray:
        """The sequence's tokens as [H, n, D]."""
        return x[row[1]].swapaxes(0, 1) if packed else x[row[0], :, row[1]]

    def compute(
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        mask: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        query_lengths: np.ndarray | None = None,
        key_value_lengths: np.ndarray | None = None,
    ) -> np.ndarray:
        out = np.zeros_like(query, np.float32)
        quantize = None if scale is None or quantize_to is None else fake_quantizer(quantize_to, scale)
        query_rows = _rows(layer, query, packed_query, query_lengths if packed_query else None)
        key_rows = _rows(layer, key, packed_keys, key_value_lengths)
        for query_row, key_row in zip(query_rows, key_rows, strict=True):
            q = widen_query(tokens(query, packed_query, query_row))
            k = widen_key(tokens(key, packed_keys, key_row))
            v = widen_value(tokens(value, packed_keys, key_row))
            row_mask = None
            if mask is not None:
                row_mask = mask[query_row[0] if mask.shape[0] > 1 else 0]
                row_mask = row_mask[:, : q.shape[1], : k.shape[1]]
                row_mask = row_mask if widen_mask is None else widen_mask(row_mask)
            diagonal = None if diagonal_of is None else diagonal_of(q.shape[1], k.shape[1])
            result = attend(q, k, v, row_mask, diagonal, softmax, quantize)
            if packed_query:
                out[query_row[1]] = result.swapaxes(0, 1)
            else:
                out[query_row[0]] = result
        return write(out)

    return compute
