"""BERT's attention with a cache, as transformers has it in models that predate its attention interface: BLIP's text decoder's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.seq2seq.own_attention.cached import keys_and_values
from tt_edge.compile.seq2seq.own_attention.operator import all_equal, attend, dtype_of, hidden_after


def matches(module: nn.Module) -> bool:
    """Whether ``module`` looks like one."""
    return type(module).__name__ == "BlipTextSelfAttention"


def semantic(module: Any) -> Callable[..., tuple[Tensor, None]]:
    """The module's ``forward``, with attention as an operator."""

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, module.num_attention_heads, module.attention_head_size).transpose(1, 2)

    def forward(
        hidden_states: Tensor,
        attention_mask: Any = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        is_cross = encoder_hidden_states is not None
        given = encoder_hidden_states if encoder_hidden_states is not None else hidden_states
        key, value = keys_and_values(
            past_key_values,
            module.layer_idx,
            is_cross,
            lambda: (heads(module.key(given)), heads(module.value(given))),
        )
        seen = Visibility(causal=False) if is_cross else attention_mask
        out = attend(module, heads(module.query(hidden_states)), key, value, module.attention_head_size**-0.5, seen)
        return out.transpose(1, 2).flatten(2), None

    return forward


def is_equal(module: Any) -> bool:
    """Whether ``semantic`` gives what the module does: causal, or to a source."""
    generator, dtype = torch.Generator().manual_seed(0), dtype_of(module)
    states = torch.randn(2, 5, module.query.in_features, generator=generator).to(dtype)
    source = torch.randn(2, 3, module.key.in_features, generator=generator).to(dtype)
    ours = semantic(module)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({"encoder_hidden_states": source},) * 2]
    if module.key.in_features == module.query.in_features:
        hidden = hidden_after(5, dtype).expand(2, 1, 5, 5)
        cases.append(({"attention_mask": hidden}, {"attention_mask": Visibility(causal=True)}))
    return all_equal(lambda: [(module(states, **theirs)[0], ours(states, **mine)[0]) for theirs, mine in cases])
