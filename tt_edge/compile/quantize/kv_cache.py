"""An FP8 KV cache: scales of each layer's keys and values, and the same rounding in PyTorch.

A cached element is ``e4m3 * scale``. The scale is the largest magnitude that calibration saw, divided by 448, the largest
E4M3 value. Keys are measured after RoPE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from tt_edge.compile.checkpoint.prequantized import KVScales
from tt_edge.compile.half_products import float32_products
from tt_edge.compile.quantize.data import Batch
from tt_edge.compile.vision.families import family_of
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.number_formats import FP8_MAX
from tt_edge.plugins.ops.quantization import fake_quantize

#: For each attention layer: scales of queries, keys and values, as AttentionPlugin's ``qkv_scales`` has them.
QKVScales = tuple[float, float, float]

_NAME = "tt_edge_kv_cache"


def calibrate_kv_cache(model: PreTrainedModel, batches: Sequence[Batch]) -> list[QKVScales]:
    """Run ``batches`` through the model; return the scales of every decoder attention layer. Deterministic."""
    if not batches:
        raise InvalidInputError("an FP8 KV cache needs calibration data; pass batches of token ids")
    found: dict[int, list[float]] = {}

    def observe(layer: int, tensors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        peaks = [float(tensor.abs().amax()) for tensor in tensors]
        found[layer] = [max(pair) for pair in zip(peaks, found.get(layer, peaks), strict=True)]
        return tensors

    with _attention(model, observe), torch.no_grad(), float32_products():
        for batch in batches:
            model(**batch, use_cache=False)
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} computes attention by itself, so its KV cache cannot be calibrated; omit --kv-cache fp8"
        )
    q, k, v = (
        [max(found[layer][which], torch.finfo(torch.float32).tiny) / FP8_MAX for layer in sorted(found)]
        for which in range(3)
    )
    return list(zip(q, k, v, strict=True))


def scales_of_checkpoint(scales: Mapping[str, KVScales], layers: int) -> list[QKVScales]:
    """The scales stored in a quantized checkpoint, in layer order; 1 where a layer has none."""
    by_layer = {int(next(part for part in name.split(".") if part.isdigit())): found for name, found in scales.items()}
    ordered = [by_layer.get(layer, KVScales()) for layer in range(layers)]
    return [(1.0, found.k, found.v) for found in ordered]


@contextmanager
def rounded_kv_cache(model: PreTrainedModel, scales: Sequence[QKVScales]) -> Iterator[None]:
    """Within the block, the model's keys and values are rounded as an FP8 cache rounds them."""

    def rounded(layer: int, tensors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = tensors
        _, k, v = (torch.tensor(scale) for scale in scales[layer])
        return query, fake_quantize(key, k, "fp8").to(key.dtype), fake_quantize(value, v, "fp8").to(value.dtype)

    with _attention(model, rounded):
        yield


@contextmanager
def _attention(
    model: PreTrainedModel, change: Callable[[int, tuple[Tensor, Tensor, Tensor]], tuple[Tensor, Tensor, Tensor]]
) -> Iterator[None]:
    """Pass the queries, keys and values of every decoder layer's attention through ``change``; skip a vision tower's."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    family = family_of(model)
    decoder = set((model if family is None else family.decoder_of(model)).modules())

    def forward(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        operands = query, key, value
        if module in decoder:
            operands = change(int(module.layer_idx), operands)  # type: ignore[arg-type]
        return sdpa_attention_forward(module, *operands, *args, **kwargs)

    AttentionInterface.register(_NAME, forward)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
