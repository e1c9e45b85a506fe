"""FSMT's attention, as fairseq has it: tokens come before the batch, and the decoder's is causal without a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.seq2seq.own_attention.operator import all_equal, attend, dtype_of, hidden_after


def matches(module: nn.Module) -> bool:
    """Whether ``module`` looks like one."""
    return type(module).__module__.endswith(".modeling_fsmt") and type(module).__name__ == "Attention"


def semantic(module: Any) -> Callable[..., tuple[Tensor, None]]:
    """The module\'s ``forward``, with attention as an operator."""
    is_cross = bool(module.encoder_decoder_attention)
    is_causal = module.layer_idx is not None and not is_cross  # the encoder's layers have no number

    def heads(x: Tensor) -> Tensor:
        """``[S, B, C]`` to ``[B, H, S, D]``."""
        return x.view(x.shape[0], x.shape[1], module.num_heads, module.head_dim).permute(1, 2, 0, 3)

    def forward(
        query: Tensor,
        key: Tensor | None,
        key_padding_mask: Any = None,
        layer_state: Any = None,
        attn_mask: Any = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, None]:
        cache = layer_state
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.cross_attention_cache if is_cross else cache.self_attention_cache
        if is_cross and cache is not None and layer_state.is_updated.get(module.layer_idx):
            keys, values = cache.layers[module.layer_idx].keys, cache.layers[module.layer_idx].values
        else:
            given = key if is_cross else query
            keys, values = heads(module.k_proj(given)), heads(module.v_proj(given))
            if cache is not None:
                keys, values = cache.update(keys, values, module.layer_idx)
                if is_cross:
                    layer_state.is_updated[module.layer_idx] = True
        masked = key_padding_mask is not None or attn_mask is not None
        seen = None if masked else Visibility(causal=is_causal)
        out = attend(module, heads(module.q_proj(query)), keys, values, float(module.scaling), seen)
        return module.out_proj(out.permute(2, 0, 1, 3).flatten(2)), None

    return forward


def is_equal(module: Any) -> bool:
    """Whether ``semantic`` gives what the module does, on random numbers."""
    generator = torch.Generator().manual_seed(0)
    dtype = dtype_of(module)
    states, source = (torch.randn(n, 2, module.embed_dim, generator=generator).to(dtype) for n in (5, 3))
    key = source if module.encoder_decoder_attention else states
    causal = module.layer_idx is not None and not module.encoder_decoder_attention
    mask = hidden_after(5, dtype) if causal else None
    return all_equal(lambda: [(module(states, key, attn_mask=mask)[0], semantic(module)(states, key)[0])])
