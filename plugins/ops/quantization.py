"""The operator of a quantized linear layer, with real math: what TensorRT's quantized layers compute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from tt_edge.number_formats import FP4_MAX, FP8_MAX, INT8_MAX, NVFP4_BLOCK
from tt_edge.plugins.ops.number_formats import e2m1_codes, e2m1_values, unpack_nibbles, unpack_signed_nibbles


def dequantize_weight(values: Tensor, scale: Tensor, global_scale: Tensor | None, format: str) -> Tensor:
    """The matrix ``[N, K]`` in float32; for the arguments see ``quantized_linear``."""
    factor = scale.float() if global_scale is None else scale.float() * global_scale.float()
    if format == "int4":
        matrix = unpack_signed_nibbles(values).float()
    elif format == "nvfp4":
        matrix = e2m1_values(unpack_nibbles(values))
    else:
        matrix = values.float()
    if factor.ndim < 2:
        return matrix * (factor[:, None] if factor.numel() > 1 else factor)
    blocks = matrix.reshape(matrix.shape[0], factor.shape[1], -1)
    return (blocks * factor[..., None]).reshape(matrix.shape)


def fake_quantize(x: Tensor, scale: Tensor, format: str) -> Tensor:
    """``x`` rounded to what ``format`` has with one scale: FP8 or INT8. Float32."""
    scaled = x.float() / scale.float()
    if format == "fp8":
        return scaled.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float() * scale.float()
    return scaled.round().clamp(-INT8_MAX - 1, INT8_MAX) * scale.float()


def fake_quantize_nvfp4(x: Tensor, global_scale: Tensor) -> Tensor:
    """``x`` rounded to E2M1 with an E4M3 scale for each 16 elements, measured as they come. Float32."""
    blocks = x.float().reshape(*x.shape[:-1], -1, NVFP4_BLOCK)
    outer = global_scale.float()
    inner = blocks.abs().amax(-1, keepdim=True) / FP4_MAX / outer
    scale = inner.clamp(max=FP8_MAX).to(torch.float8_e4m3fn).float() * outer
    scaled = torch.where(scale > 0, blocks / scale, 0.0)
    return (e2m1_values(e2m1_codes(scaled)) * scale).reshape(x.shape)


@torch.library.custom_op("tt_edge::quantized_linear", mutates_args=())
def quantized_linear(
    x: Tensor,
    values: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    global_scale: Tensor | None,
    input_scale: Tensor | None,
    format: str,
) -> Tensor:
    """A linear layer of which the weight, and with ``input_scale`` the input too, is quantized.

    ``x`` ``[B, S, K]``, result ``[B, S, N]``. ``format`` is ``fp8``, ``int8``, ``int4`` or ``nvfp4``; ``values`` ``[N, K]``
    float8_e4m3fn or int8, or ``[N, K / 2]`` uint8 with the even column in the low nibble (two's complement, or E2M1
    codes). ``scale`` is ``[1]``, ``[N]`` or ``[N, K / group]``; for NVFP4 ``[N, K / 16]`` float8_e4m3fn, times
    ``global_scale`` ``[]``. ``input_scale`` ``[]``: what FP8 and INT8 inputs are divided by; for NVFP4 what the scales of
    the input's blocks are divided by.
    """
    matrix = dequantize_weight(values, scale, global_scale, format).to(x.dtype)
    if input_scale is not None:
        rounded = fake_quantize_nvfp4(x, input_scale) if format == "nvfp4" else fake_quantize(x, input_scale, format)
        x = rounded.to(x.dtype)
    return linear(x, matrix, bias)


@quantized_linear.register_fake
def _(
    x: Tensor,
    values: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    global_scale: Tensor | None,
    input_scale: Tensor | None,
    format: str,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])
