"""BART's attention, which transformers copies into models that predate its attention interface: TrOCR's, MVP's, SpeechT5's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.seq2seq.own_attention.cached import keys_and_values
from tt_edge.compile.seq2seq.own_attention.operator import all_equal, attend, dtype_of, hidden_after
from tt_edge.errors import UnsupportedModelError

#: What such a module has, and the arguments of its ``forward``.
_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads", "head_dim", "scaling", "layer_idx", "is_decoder")
_ARGUMENTS = frozenset(
    {
        "hidden_states", "key_value_states", "past_key_values", "attention_mask", "attn_prompt", "position_bias",
        "output_attentions", "kwargs",
    }
)  # fmt: skip


def matches(module: nn.Module) -> bool:
    """Whether ``module`` looks like one."""
    if not all(hasattr(module, name) for name in _PARTS):
        return False
    forward = type(module).forward
    return set(inspect.signature(forward).parameters) - {"self"} <= _ARGUMENTS and (
        "ALL_ATTENTION_FUNCTIONS" not in forward.__code__.co_names
    )


def semantic(module: Any) -> Callable[..., tuple[Any, ...]]:
    """The module\'s ``forward``, with attention as an operator."""
    own, returns_cache = module.forward, type(module).__name__ == "LEDDecoderAttention"

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, module.num_heads, module.head_dim).transpose(1, 2)

    def forward(
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        attn_prompt: Any = None,
        position_bias: Any = None,
        **_: Any,
    ) -> tuple[Any, ...]:
        if attn_prompt is not None:
            raise UnsupportedModelError(f"{type(module).__name__} puts prompts before its keys, which no backend has")
        if position_bias is not None:  # by distance, of each query: SpeechT5's encoder, whose speech has no padding
            own_result: tuple[Any, ...] = own(hidden_states, position_bias=position_bias)
            return own_result
        is_cross = key_value_states is not None
        given = key_value_states if key_value_states is not None else hidden_states
        key, value = keys_and_values(
            past_key_values,
            module.layer_idx,
            is_cross,
            lambda: (heads(module.k_proj(given)), heads(module.v_proj(given))),
        )
        seen = attention_mask
        if seen is None and (is_cross or not module.is_decoder):
            seen = Visibility(causal=False)
        elif seen is None and hidden_states.shape[1] == 1:
            seen = Visibility(causal=True)  # LED makes no mask for one token
        query = heads(module.q_proj(hidden_states))
        out = attend(module, query, key, value, float(module.scaling), seen)
        result = module.out_proj(out.transpose(1, 2).flatten(2)), None
        return (*result, past_key_values) if returns_cache else result

    return forward


def is_equal(module: Any) -> bool:
    """Whether ``semantic`` gives what the module does: causal, not causal, and to a source."""
    generator = torch.Generator().manual_seed(0)
    dtype = dtype_of(module)
    states = torch.randn(2, 5, module.q_proj.in_features, generator=generator).to(dtype)
    source = torch.randn(2, 3, module.k_proj.in_features, generator=generator).to(dtype)
    hidden = hidden_after(5, dtype).expand(2, 1, 5, 5)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({"key_value_states": source},) * 2]
    if module.k_proj.in_features == module.q_proj.in_features:
        cases.append(({"attention_mask": hidden}, {"attention_mask": Visibility(causal=True)}))
        cases.append(({}, {"attention_mask": Visibility(causal=False)}))
    ours = semantic(module)
    return all_equal(lambda: [(module(states, **theirs)[0], ours(states, **mine)[0]) for theirs, mine in cases])
