"""The shapes of `lowered_decode.py`, from the models' published configurations, with random weights from a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

_LLAMA_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def qwen_05b() -> PretrainedConfig:
    return Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
    )


def llama_1b() -> PretrainedConfig:
    return LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        max_position_embeddings=131072,
        rope_parameters={**_LLAMA_ROPE, "factor": 32.0},
        tie_word_embeddings=True,
    )


def llama_8b() -> PretrainedConfig:
    return LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        rope_parameters={**_LLAMA_ROPE, "factor": 8.0},
        tie_word_embeddings=False,
    )


def llama3_8b() -> PretrainedConfig:
    config = llama_8b()
    config.max_position_embeddings = 8192
    config.rope_parameters = {"rope_type": "default", "rope_theta": 500000.0}
    return config


def qwen_7b() -> PretrainedConfig:
    return Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=False,
    )


def tiny() -> PretrainedConfig:
    """For a test of this file."""
    return Qwen2Config(
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    )


SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "Qwen2.5-0.5B": qwen_05b,
    "Llama-3.2-1B": llama_1b,
    "Llama-3-8B": llama3_8b,
    "Llama-3.1-8B": llama_8b,
    "Qwen2.5-7B": qwen_7b,
    "tiny": tiny,
}


def model_of(shape: str, device: str, seed: int = 0) -> PreTrainedModel:
    """The shape with random fp16 weights, made on ``device``, on the CPU."""
    torch.manual_seed(seed)
    config = SHAPES[shape]()
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    # Biases of 0 and norms of 1 would hide a wrong one.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.02)
            elif "norm" in name:
                parameter.normal_(1.0, 0.1)
    return model.cpu().eval()
