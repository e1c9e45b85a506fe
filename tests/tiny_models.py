"""Tiny models of real transformers classes with random weights, for tests. Needs torch."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES: dict[str, tuple[type, type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}

#: Query and K/V heads: grouped, one each, all sharing one.
HEADS = {"gqa": (4, 2), "mha": (4, 4), "mqa": (4, 1)}


def tiny_config(family: str, heads: str = "gqa", **overrides: Any) -> Any:
    """A configuration of ``family`` with two layers and a vocabulary of 320."""
    query_heads, kv_heads = HEADS[heads]
    settings: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": query_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 16,
        "vocab_size": 320,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "qwen2":
        del settings["head_dim"]  # Qwen2 derives it
    return FAMILIES[family][0](**{**settings, **overrides})


def tiny_model(
    family: str = "llama", heads: str = "gqa", dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A model of ``family`` in evaluation mode.

    Weights are drawn wider than transformers' default, so that logits differ by more than rounding and attention is
    far from uniform: a wrong mask or position changes the greedy token.
    """
    torch.manual_seed(seed)
    model = FAMILIES[family][1](tiny_config(family, heads, **overrides))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.1)
            else:
                parameter.normal_(0.0, 0.15)
    return model.to(dtype).eval().requires_grad_(False)
