"""The operations of a dense decoder from its ``config.json``, without weights. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.roofline.operations import (
    Math,
    Operation,
    attention,
    beside,
    cache_update,
    linear,
    lookup,
    pointwise,
)

#: Bytes of a number of activations, of the KV cache, and of weights that are not quantized.
_HALF = 2.0


@dataclass(frozen=True)
class Format:
    """How linear layers are stored and multiplied: bytes of a weight with its scales, bytes of an input, type of the product."""

    weight_bytes: float
    input_bytes: float
    math: Math


#: Formats of the linear layers; the head stays in half precision.
FORMATS: dict[str, Format] = {
    "fp16": Format(_HALF, _HALF, Math.FP16),
    "fp8": Format(1, 1, Math.FP8),
    "int8_sq": Format(1, 1, Math.INT8),
    "int8_wo": Format(1, _HALF, Math.FP16),
    "int4_awq": Format(0.5 + _HALF / 128, _HALF, Math.FP16),
    "nvfp4": Format(0.5 + 1 / 16, 0.5 + 1 / 16, Math.FP4),
}

# Decoders of this form, and whether queries and keys are normalized.
_FAMILIES = {"llama": False, "mistral": False, "qwen2": False, "qwen3": True}


def decoder_of_config(config: Mapping[str, Any], format_name: str = "fp16") -> list[Operation]:
    """The operations of the model that ``config`` (of a ``config.json``) describes, with linear layers in ``format_name``.

    Raises ``UnsupportedModelError`` for another form of model, ``InvalidInputError`` for a missing size or unknown format.
    """
    if format_name not in FORMATS:
        raise InvalidInputError(f"format {format_name!r} is not known; choose from {', '.join(FORMATS)}")
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise UnsupportedModelError(
            f"a config of model_type {family!r} is not known (it knows {', '.join(_FAMILIES)}); compile it and profile the bundle"
        )
    if config.get("sliding_window") is not None and config.get("use_sliding_window", family == "mistral"):
        raise UnsupportedModelError("a config with a sliding window is not known; compile it and profile the bundle")
    return list(_operations(_Shape.of(config), FORMATS[format_name], _FAMILIES[str(family)]))


@dataclass(frozen=True)
class _Shape:
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Shape:
        def size(name: str, default: Any = None) -> int:
            value = config.get(name)
            value = default if value is None else value
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInputError(f"the config has {name} {value!r}; give a positive integer")
            return value

        hidden, heads = size("hidden_size"), size("num_attention_heads")
        return cls(
            layers=size("num_hidden_layers"),
            hidden=hidden,
            inner=size("intermediate_size"),
            heads=heads,
            kv_heads=size("num_key_value_heads", heads),
            head_size=size("head_dim", hidden // heads),
            vocabulary=size("vocab_size"),
        )


def _operations(shape: _Shape, form: Format, normalizes: bool) -> Iterator[Operation]:
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size

    def product(name: str, inputs: int, outputs: int) -> Operation:
        return linear(
            name,
            inputs,
            outputs,
            weight_bytes=inputs * outputs * form.weight_bytes,
            input_bytes=inputs * form.input_bytes,
            output_bytes=outputs * _HALF,
            math=form.math,
        )

    yield lookup("embed_tokens", hidden, _HALF)
    for index in range(shape.layers):
        name = f"layers.{index}"
        # The sum before a norm is part of its kernel: it reads two numbers and writes two, the norm's and the sum.
        added = 2 * _HALF if index else 0.0
        yield pointwise(f"{name}.input_layernorm", hidden * (_HALF + form.input_bytes + added))
        qkv, shared = product(f"{name}.self_attn.q_proj", hidden, queries), hidden * form.input_bytes
        for other in ("k_proj", "v_proj"):
            qkv = beside(qkv, product(f"{name}.self_attn.{other}", hidden, keys), shared)
        yield qkv
        for rotated, width in (("q", queries), ("k", keys)):
            what = f"{rotated}_norm_rope" if normalizes else f"{rotated}_rope"
            yield pointwise(f"{name}.self_attn.{what}", 2 * width * _HALF)
        for _ in range(2):
            yield cache_update(f"{name}.self_attn.kv_cache", shape.kv_heads, shape.head_size, _HALF)
        yield attention(f"{name}.self_attn", shape.heads, shape.kv_heads, shape.head_size, _HALF, _HALF)
        if form.input_bytes != _HALF:  # quantizes what attention wrote
            yield pointwise(f"{name}.self_attn.quantize", queries * (_HALF + form.input_bytes))
        yield product(f"{name}.self_attn.o_proj", queries, hidden)
        yield pointwise(f"{name}.post_attention_layernorm", hidden * (3 * _HALF + form.input_bytes))
        gate_up = product(f"{name}.mlp.gate_proj", hidden, shape.inner)
        yield beside(gate_up, product(f"{name}.mlp.up_proj", hidden, shape.inner), shared)
        yield pointwise(f"{name}.mlp.act_fn", shape.inner * (2 * _HALF + form.input_bytes))
        yield product(f"{name}.mlp.down_proj", shape.inner, hidden)
    yield pointwise("norm", hidden * 3 * _HALF)
    yield linear(
        "lm_head",
        hidden,
        shape.vocabulary,
        weight_bytes=hidden * shape.vocabulary * _HALF,
        input_bytes=hidden * _HALF,
        output_bytes=shape.vocabulary * 4,
        math=Math.FP16,
        last_token=True,
    )
