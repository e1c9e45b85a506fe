"""Decoders whose layers compute attention by themselves, in BART's way: TrOCR's and MVP's.

transformers copies BART's attention into models that predate its attention interface. While such a model is traced, their
attention emits ``tt_edge::attention``, after both have been compared on random numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache

from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.export.semantics import ATTENTION_NAME
from tt_edge.errors import UnsupportedModelError

#: What such a module has, and the arguments of its ``forward``.
_PARTS = ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads", "head_dim", "scaling", "layer_idx", "is_decoder")
_ARGUMENTS = frozenset(
    {
        "hidden_states", "key_value_states", "past_key_values", "attention_mask", "attn_prompt", "output_attentions", "kwargs"
    }
)  # fmt: skip


@contextmanager
def bart_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, such modules of ``model`` emit ``tt_edge::attention``; other modules stay as they are."""
    found = [module for module in model.modules() if _is_like_bart(module)]
    known: dict[type[nn.Module], bool] = {}
    with ExitStack() as stack:
        for module in found:
            kind = type(module)
            if kind not in known:
                known[kind] = _is_equal(module)
            if known[kind]:
                stack.enter_context(patch.object(module, "forward", _semantic(module)))
        for owner in model.modules() if any(known.values()) else ():
            if isinstance(
                owner, PreTrainedModel
            ):  # transformers sets it only where it finds its interface in the source
                stack.enter_context(patch.object(owner.config, "_attn_implementation_internal", ATTENTION_NAME))
        yield


def _is_like_bart(module: nn.Module) -> bool:
    if not all(hasattr(module, name) for name in _PARTS):
        return False
    forward = type(module).forward
    return set(inspect.signature(forward).parameters) - {"self"} <= _ARGUMENTS and (
        "ALL_ATTENTION_FUNCTIONS" not in forward.__code__.co_names
    )


def _semantic(module: Any) -> Callable[..., tuple[Tensor, None]]:
    """The module's ``forward``, with attention as an operator."""

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, module.num_heads, module.head_dim).transpose(1, 2)

    def forward(
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        attn_prompt: Any = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if attn_prompt is not None:
            raise UnsupportedModelError(f"{type(module).__name__} puts prompts before its keys, which no backend has")
        is_cross = key_value_states is not None
        cache, is_updated = past_key_values, False
        if isinstance(cache, EncoderDecoderCache):
            is_updated = is_cross and bool(cache.is_updated.get(module.layer_idx))
            cache = cache.cross_attention_cache if is_cross else cache.self_attention_cache
        if is_updated:
            key, value = cache.layers[module.layer_idx].keys, cache.layers[module.layer_idx].values
        else:
            given = hidden_states if key_value_states is None else key_value_states
            key, value = heads(module.k_proj(given)), heads(module.v_proj(given))
            if cache is not None:
                key, value = cache.update(key, value, module.layer_idx)
                if is_cross and isinstance(past_key_values, EncoderDecoderCache):
                    past_key_values.is_updated[module.layer_idx] = True
        seen = attention_mask
        if seen is None and (is_cross or not module.is_decoder):
            seen = Visibility(causal=False)
        if not isinstance(seen, Visibility):
            raise UnsupportedModelError(
                f"{type(module).__name__} gets a mask that its model makes by itself, which tt-edge does not translate"
            )
        out = torch.ops.tt_edge.attention(
            heads(module.q_proj(hidden_states)),
            key,
            value,
            float(module.scaling),
            seen.causal,
            seen.window,
            0.0,
            None,
            None,
        )
        return module.out_proj(out.transpose(1, 2).flatten(2)), None

    return forward


def _is_equal(module: Any) -> bool:
    """Whether ``_semantic`` gives what the module does, on random numbers: causal, not causal, and to a source."""
    generator = torch.Generator().manual_seed(0)
    weight = module.q_proj.weight
    states = torch.randn(2, 5, module.q_proj.in_features, generator=generator).to(weight.dtype)
    source = torch.randn(2, 3, module.k_proj.in_features, generator=generator).to(weight.dtype)
    hidden = torch.full((5, 5), torch.finfo(weight.dtype).min, dtype=weight.dtype).triu(1).expand(2, 1, 5, 5)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [({"key_value_states": source},) * 2]
    if module.k_proj.in_features == module.q_proj.in_features:
        cases.append(({"attention_mask": hidden}, {"attention_mask": Visibility(causal=True)}))
        cases.append(({}, {"attention_mask": Visibility(causal=False)}))
    ours = _semantic(module)
    with torch.no_grad():
        try:
            pairs = [(module(states, **theirs)[0], ours(states, **mine)[0]) for theirs, mine in cases]
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False
    return all(torch.allclose(want, got, rtol=1e-3, atol=1e-3) for want, got in pairs)
