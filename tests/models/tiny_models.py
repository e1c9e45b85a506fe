"""Tiny models of real transformers classes with random weights, for tests. Needs torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """Names of a family's classes, how its configuration calls things (``None``: not at all), and what it needs more."""

    config: str
    model: str
    renamed: dict[str, str | None] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


_NO_HEADS: dict[str, str | None] = {"num_key_value_heads": None, "head_dim": None}
_WINDOW = 8  # far shorter than the prompts that tests use
_ALTERNATING = ["sliding_attention", "full_attention"]
_SHARED_LAYERS = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": _ALTERNATING * 2,
    "sliding_window": _WINDOW,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 320,
    "final_logit_softcapping": 30.0,
}

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaConfig", "LlamaForCausalLM"),
    "mistral": Family("MistralConfig", "MistralForCausalLM", extra={"sliding_window": _WINDOW}),
    "qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", {"head_dim": None}),
    "qwen3": Family("Qwen3Config", "Qwen3ForCausalLM"),
    "gemma2": Family(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        extra={"sliding_window": _WINDOW, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0},
    ),
    "gemma3": Family(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        extra={"sliding_window": _WINDOW, "query_pre_attn_scalar": 20, "layer_types": _ALTERNATING},
    ),
    "phi3": Family("Phi3Config", "Phi3ForCausalLM", extra={"sliding_window": _WINDOW, "partial_rotary_factor": 0.5}),
    "smollm3": Family("SmolLM3Config", "SmolLM3ForCausalLM", extra={"no_rope_layers": [1, 0]}),
    "gpt2": Family(
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            **_NO_HEADS,
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
        },
    ),
    "opt": Family(
        "OPTConfig", "OPTForCausalLM", {**_NO_HEADS, "intermediate_size": "ffn_dim"}, {"word_embed_proj_dim": 64}
    ),
}

#: Families whose last layers attend to the keys and values of earlier ones, and whose layers have an input of their own.
SHARING: dict[str, Family] = {
    "gemma4": Family(
        "Gemma4TextConfig",
        "Gemma4ForCausalLM",
        extra={**_SHARED_LAYERS, "global_head_dim": 32, "use_double_wide_mlp": True},
    ),
    "gemma3n": Family(
        "Gemma3nTextConfig",
        "Gemma3nForCausalLM",
        extra={
            **_SHARED_LAYERS,
            "intermediate_size": [96] * 4,
            "laurel_rank": 8,
            "altup_num_inputs": 3,
            "activation_sparsity_pattern": [0.9, 0.5, 0.0, 0.0],
        },
    ),
}

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

#: Query and K/V heads: grouped, one each, all sharing one.
HEADS = {"gqa": (4, 2), "mha": (4, 4), "mqa": (4, 1)}


def tiny_config(family: str, heads: str = "gqa", **overrides: Any) -> Any:
    """A configuration of ``family`` with two layers (four in ``SHARING``) and a vocabulary of 320."""
    query_heads, kv_heads = HEADS[heads]
    settings = {**_SIZES, "num_attention_heads": query_heads, "num_key_value_heads": kv_heads, "head_dim": 16}
    about = (FAMILIES | SHARING)[family]
    named = {about.renamed.get(key, key): value for key, value in settings.items()}
    named.pop(None, None)
    return getattr(transformers, about.config)(**{**named, **about.extra, **overrides})


def tiny_model(
    family: str = "llama", heads: str = "gqa", dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A model of ``family`` in evaluation mode.

    Weights are drawn wider than transformers' default, so that logits differ by more than rounding and attention is
    far from uniform: a wrong mask or position changes the greedy token.
    """
    torch.manual_seed(seed)
    model = getattr(transformers, (FAMILIES | SHARING)[family].model)(tiny_config(family, heads, **overrides))
    return _drawn(model).to(dtype).eval().requires_grad_(False)


def untouched_model(name: str, **settings: Any) -> PreTrainedModel:
    """A model of a family that is not in ``FAMILIES``, by the stem of its class names."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, f"{name}Config")(**{**_SIZES, **heads, **settings})
    return _drawn(getattr(transformers, f"{name}ForCausalLM")(config)).eval().requires_grad_(False)


def _drawn(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                parameter.normal_(1.0, 0.1)
            else:
                parameter.normal_(0.0, 0.15)
    return model
