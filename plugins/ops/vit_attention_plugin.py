"""``tt_edge::vit_attention_plugin``: what NVIDIA's ViTAttentionPlugin computes, as PyTorch math on any device."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from tt_edge.plugins.ops.semantic import grouped_attention


@torch.library.custom_op("tt_edge::vit_attention_plugin", mutates_args=())
def vit_attention_plugin(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen_carrier: Tensor, attention_scale: float
) -> Tensor:
    """Attention of vision towers: tokens of a segment see each other. ``q``, ``k``, ``v`` and the result are ``[T, H, D]``.

    ``cu_seqlens`` int32 ``[segments + 1]``: where each segment begins, and the end. ``max_seqlen_carrier`` int32 tells by its
    length how many tokens the longest has, at least; its values do not count. Activations may be of any float type: libraries
    support only float16, parity checks use float32. Results for tokens after the last segment are zeros.
    """
    out = torch.zeros_like(q)
    for first, end in pairwise(cu_seqlens.tolist()):
        operands = (t[first:end].transpose(0, 1)[None] for t in (q, k, v))  # [1, H, L, D]
        out[first:end] = grouped_attention(*operands, scale=attention_scale)[0].transpose(0, 1)
    return out


@vit_attention_plugin.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen_carrier: Tensor, attention_scale: float
) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
