"""Small quantized checkpoints, packed value by value as the formats' descriptions say, to read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LAYER = "model.layers.0.mlp.up_proj"
N, K, GROUP = 24, 64, 16
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Layer:
    """One linear layer's tensors as a format stores them, and the weight ``[N, K]`` fp32 that they stand for."""

    weight: Tensor
    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, config: dict[str, Any], layers: dict[str, dict[str, Tensor]], shards: int = 1) -> Path:
    """Write ``config.json`` and the layers' tensors, with an embedding, a bias and an excluded layer beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{layer}.{name}": tensor.contiguous() for layer, named in layers.items() for name, tensor in named.items()
    }
    tensors |= {
        "model.embed_tokens.weight": torch.ones(4, 4),
        f"{LAYER}.bias": torch.ones(N),
        "lm_head.weight": torch.ones(4, 4),
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "quantization_config": config}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    weight_map = {name: f"model-{i % shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_model(
    folder: Path, model: nn.Module, config: dict[str, Any], make: Callable[[int, int], Layer]
) -> dict[str, Layer]:
    """A whole checkpoint of ``model``, its linear layers but the head replaced by what ``make(n, k)`` gives.

    ``model`` gets the weights that they stand for. Returns them by name.
    """
    layers = {
        name: make(module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    tensors = {name: t for name, t in model.state_dict().items() if name.removesuffix(".weight") not in layers}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    for name, layer in layers.items():
        tensors |= {f"{name}.{last}": tensor.contiguous() for last, tensor in layer.tensors.items()}
        model.get_submodule(name).weight.copy_(layer.weight)
    model.config.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "model.safetensors")
    return layers


def into_words(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """``[R, C]`` codes to ``[R, C*bits/32]`` int32; ``order[i]`` is the code of a word that stands at place i."""
    per_word = 32 // bits
    order = order or tuple(range(per_word))
    words = np.zeros((codes.shape[0], codes.shape[1] // per_word), np.uint32)
    for column in range(words.shape[1]):
        for place, code in enumerate(order):
            words[:, column] |= codes[:, column * per_word + code].numpy().astype(np.uint32) << np.uint32(bits * place)
    return torch.from_numpy(words.view(np.int32))


def pairs(codes: Tensor) -> Tensor:
    """``[R, C]`` codes of 0 to 15 to ``[R, C/2]`` uint8, the first in the low nibble."""
    return torch.tensor(
        [[int(a) + 16 * int(b) for a, b in zip(r[::2], r[1::2], strict=True)] for r in codes], dtype=torch.uint8
    )


def random_codes(top: int, shape: tuple[int, ...] = (N, K)) -> Tensor:
    codes = torch.randint(0, top, shape)
    codes.view(-1)[:2] = torch.tensor([0, top - 1])  # both ends
    return codes


def random_scales(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return (torch.rand(shape) * 0.1 + 0.01).to(dtype)


def grouped(codes: Tensor, zeros: Tensor, scales: Tensor, group_of: Tensor) -> Tensor:
    """``(code - zero) * scale`` with the group of each column looked up."""
    return (codes - zeros[:, group_of]).float() * scales.float()[:, group_of]


def awq(zeros: Tensor | None = None, *, n: int = N, k: int = K) -> Layer:
    """``zeros`` ``[N, K/GROUP]``, by default random ones."""
    codes, scales = random_codes(16, (n, k)), random_scales(n, k // GROUP)
    zeros = random_codes(16, (n, k // GROUP)) if zeros is None else zeros
    tensors = {
        "qweight": into_words(codes.T, 4, AWQ_ORDER),
        "qzeros": into_words(zeros.T, 4, AWQ_ORDER),
        "scales": scales.T,
    }
    return Layer(grouped(codes, zeros, scales, torch.arange(k) // GROUP), tensors)


def gptq(
    bits: int = 4, symmetric: bool = True, act_order: bool = False, v2: bool = False, *, n: int = N, k: int = K
) -> Layer:
    """``v2`` stores the zero points as they are, not less one."""
    groups, middle = k // GROUP, 1 << (bits - 1)
    group_of = torch.arange(k) // GROUP
    if act_order:
        group_of = group_of[torch.randperm(k)]
    codes, scales = random_codes(1 << bits, (n, k)), random_scales(n, groups) / (1 << (bits - 4))
    zeros = torch.full((n, groups), middle) if symmetric else torch.randint(1, 1 << bits, (n, groups))
    stored = zeros if v2 else zeros - 1
    tensors = {
        "qweight": into_words(codes, bits).T,
        "qzeros": into_words(stored.T, bits),
        "scales": scales.T,
        "g_idx": group_of.int(),
    }
    return Layer(grouped(codes, zeros, scales, group_of), tensors, {"group_of": group_of})


def packed(bits: int = 4, symmetric: bool = True, act_order: bool = False, *, n: int = N, k: int = K) -> Layer:
    """compressed-tensors ``pack-quantized``."""
    groups, middle = k // GROUP, 1 << (bits - 1)
    group_of = torch.arange(k) // GROUP
    codes, scales = random_codes(1 << bits, (n, k)), random_scales(n, groups, dtype=torch.bfloat16)
    tensors = {"weight_packed": into_words(codes, bits), "weight_scale": scales, "weight_shape": torch.tensor([n, k])}
    zeros = torch.full((n, groups), middle)
    if not symmetric:
        zeros = random_codes(1 << bits, (n, groups))
        tensors["weight_zero_point"] = into_words(zeros.T, bits).T
    if act_order:
        group_of = group_of[torch.randperm(k)]
        tensors["weight_g_idx"] = group_of.int()
    return Layer(grouped(codes, zeros, scales, group_of), tensors, {"group_of": group_of})


def fp8(scale: Tensor, *, n: int = N, k: int = K, **others: Tensor) -> Layer:
    """compressed-tensors and modelopt FP8; ``scale`` in the stored shape."""
    weight = torch.randn(n, k).mul(50).to(torch.float8_e4m3fn)
    return Layer(weight.float() * scale.float(), {"weight": weight, "weight_scale": scale, **others})


def nvfp4(global_scale: float, *, n: int = N, k: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """Packed codes ``[N, K/2]``, block scales ``[N, K/16]`` E4M3, and the weight."""
    codes, blocks = (
        random_codes(16, (n, k)),
        random_scales(n, k // 16, dtype=torch.float32).mul(1000).to(torch.float8_e4m3fn),
    )
    magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = magnitudes[codes % 8] * torch.where(codes >= 8, -1.0, 1.0)
    weight = values * (blocks.float() * global_scale).repeat_interleave(16, dim=1)
    return pairs(codes), blocks, weight
