"""The attention that BigBird-Pegasus' encoder has for sources too short for its blocks: BERT's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.seq2seq.own_attention.operator import all_equal, attend, dtype_of


def matches(module: nn.Module) -> bool:
    """Whether ``module`` looks like one."""
    return type(module).__name__ == "BigBirdPegasusSelfAttention"


def semantic(module: Any) -> Callable[..., tuple[Tensor, None]]:
    """The module\'s ``forward``, with attention as an operator."""

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, module.num_attention_heads, module.attention_head_size).transpose(1, 2)

    def forward(hidden_states: Tensor, attention_mask: Any = None, **_: Any) -> tuple[Tensor, None]:
        query, key, value = (heads(part(hidden_states)) for part in (module.query, module.key, module.value))
        seen = Visibility(causal=False) if attention_mask is None else attention_mask
        out = attend(module, query, key, value, module.attention_head_size**-0.5, seen)
        return out.transpose(1, 2).flatten(2), None

    return forward


def is_equal(module: Any) -> bool:
    """Whether ``semantic`` gives what the module does, on random numbers."""
    states = torch.randn(2, 5, module.query.in_features, generator=torch.Generator().manual_seed(0))
    states = states.to(dtype_of(module))
    return all_equal(lambda: [(module(states)[0], semantic(module)(states)[0])])
