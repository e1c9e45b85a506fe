"""T5Gemma 2's attention: the keys of the answer so far and those of the source share one softmax."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tt_edge.compile.export.masks import JoinedVisibility, Visibility
from tt_edge.compile.seq2seq.own_attention.operator import all_equal, dtype_of, hidden_after
from tt_edge.errors import UnsupportedModelError


def matches(module: nn.Module) -> bool:
    """Whether ``module`` looks like one."""
    return type(module).__name__ == "T5Gemma2MergedAttention"


def semantic(module: Any) -> Callable[..., tuple[Tensor, None, None]]:
    """The module\'s ``forward``, with attention as an operator."""

    def heads(x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, module.head_dim).transpose(1, 2)

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        merged_attention_mask: Any,
        encoder_hidden_states: Tensor,
        past_key_values: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None, None]:
        if not isinstance(merged_attention_mask, JoinedVisibility):
            raise UnsupportedModelError(f"{type(module).__name__} gets a mask that tt-edge does not translate")
        own, layer = merged_attention_mask.first, module.layer_idx
        rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
        query = module.q_norm(heads(module.q_proj(hidden_states)))
        key, value = module.k_norm(heads(module.k_proj(hidden_states))), heads(module.v_proj(hidden_states))
        query, key = rotate(query, key, *position_embeddings)
        caches = past_key_values
        if caches is not None:
            key, value = caches.self_attention_cache.update(key, value, layer)
        if caches is not None and caches.is_updated.get(layer):
            cross = caches.cross_attention_cache.layers[layer]
            source_key, source_value = cross.keys, cross.values
        else:
            source_key = module.k_norm(heads(module.k_proj(encoder_hidden_states)))
            source_value = heads(module.v_proj(encoder_hidden_states))
            if caches is not None:
                source_key, source_value = caches.cross_attention_cache.update(source_key, source_value, layer)
                caches.is_updated[layer] = True
        out = torch.ops.tt_edge.merged_attention(
            query, key, value, source_key, source_value, float(module.scaling), own.window
        )
        return module.o_proj(out.transpose(1, 2).flatten(2)), None, None

    return forward


def is_equal(module: Any) -> bool:
    """Whether ``semantic`` gives what the module does, rotated, with keys after the query hidden."""
    generator = torch.Generator().manual_seed(0)
    dtype, width = dtype_of(module), module.q_proj.in_features
    states, source = (torch.randn(2, n, width, generator=generator).to(dtype) for n in (5, 3))
    angles = torch.randn(1, 5, module.head_dim // 2, generator=generator).repeat(1, 1, 2)
    positions = angles.cos().to(dtype), angles.sin().to(dtype)
    mask = torch.cat([hidden_after(5, dtype), torch.zeros(5, 3, dtype=dtype)], -1).expand(2, 1, 5, 8)
    joined = JoinedVisibility(Visibility(causal=True))
    ours = semantic(module)
    with patch.object(module.config, "_attn_implementation_internal", "eager"):
        return all_equal(
            lambda: [(module(states, positions, mask, source)[0], ours(states, positions, joined, source)[0])]
        )
