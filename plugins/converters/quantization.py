"""TensorRT's quantized layers for ``tt_edge::quantized_linear``: the weight is a constant of its quantized type.

Registered with torch_tensorrt when this module is imported, as in ``building``. What TensorRT-RTX 1.6.1 accepts,
and how large its engines get, was measured: a weight of rank 3 is kept compressed, but NVFP4 with quantized inputs builds
only as a product of matrices (otherwise the builder stops at ``CHECK(is_const())``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorrt as trt
import torch
from torch import Tensor
from torch_tensorrt.dynamo.conversion import ConversionContext, dynamo_tensorrt_converter
from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

import tt_edge.plugins.ops.quantization  # noqa: F401  (defines the operator)
from tt_edge.number_formats import NVFP4_BLOCK

_WEIGHT_TYPES = {
    "fp8": trt.DataType.FP8,
    "int8": trt.DataType.INT8,
    "int4": trt.DataType.INT4,
    "nvfp4": trt.DataType.FP4,
}
_TORCH_TYPES = {
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
    trt.DataType.FLOAT: torch.float32,
}
# A scale loses at most this part of itself to the type that it is stored in, or it is stored in float32.
_SCALE_TOLERANCE = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 0.0}


class _QuantizedLinear:
    """The layers of one quantized linear layer."""

    def __init__(self, ctx: ConversionContext, name: str) -> None:
        self.ctx, self.net, self.name = ctx, ctx.net, name

    def named(self, layer: Any, suffix: str) -> Any:
        layer.name = f"{self.name}{suffix}"
        return layer.get_output(0)

    def constant(self, tensor: Tensor, dtype: Any, shape: Sequence[int], suffix: str, name: str | None = None) -> Any:
        """A constant over the memory of ``tensor``, which the context keeps alive."""
        tensor = tensor.detach().contiguous()
        self.ctx.cpu_weights_reference_holder.append(tensor)
        weights = trt.Weights(dtype, tensor.data_ptr(), int(np.prod(shape)))
        layer = self.net.add_constant(tuple(shape), weights)
        layer.name = name or f"{self.name}{suffix}"
        return layer.get_output(0)

    def scale(self, tensor: Tensor, dtype: Any, shape: Sequence[int], suffix: str) -> Any:
        return self.constant(tensor.to(_TORCH_TYPES[dtype]), dtype, shape, suffix)

    def cast(self, tensor: Any, dtype: Any, suffix: str) -> Any:
        return tensor if tensor.dtype == dtype else self.named(self.net.add_cast(tensor, dtype), suffix)

    def dequantize(self, data: Any, scale: Any, suffix: str, axis: int | None = None) -> Any:
        layer = self.net.add_dequantize(data, scale, scale.dtype)
        if axis is not None:
            layer.axis = axis
        return self.named(layer, suffix)

    def weight(
        self, values: Tensor, scale: Tensor, global_scale: Tensor | None, format: str, rank: int, type_: Any, key: str
    ) -> Any:
        """The dequantized weight ``[N, K]``, or ``[1, N, K]`` for rank 3, of ``type_``."""
        rows, columns = values.shape[0], values.shape[1] * (2 if format in ("int4", "nvfp4") else 1)
        lead = (1,) * (rank - 2)
        data = self.constant(values, _WEIGHT_TYPES[format], (*lead, rows, columns), "_weight", key)
        kind = storage_type(type_, global_scale if global_scale is not None else scale)
        if global_scale is not None:
            blocks = self.constant(scale, trt.DataType.FP8, (*lead, *scale.shape), "_block_scales")
            outer = self.scale(global_scale, kind, (), "_global_scale")
            factor, axis = self.dequantize(blocks, outer, "_weight_scale"), None
        elif scale.ndim == 2:
            factor, axis = self.scale(scale, kind, (*lead, *scale.shape), "_weight_scale"), None
        elif scale.numel() > 1:
            factor, axis = self.scale(scale, kind, (rows,), "_weight_scale"), rank - 2
        else:
            factor, axis = self.scale(scale, kind, (), "_weight_scale"), None
        return self.cast(self.dequantize(data, factor, "_weight_dequantized", axis), type_, "_weight_cast")

    def input(self, x: Any, input_scale: Tensor, format: str) -> Any:
        """``x`` through its quantized type and back."""
        type_, kind = x.dtype, storage_type(x.dtype, input_scale)
        wide = self.cast(x, kind, "_input_cast")
        scale = self.scale(input_scale, kind, (), "_input_scale")
        if format != "nvfp4":
            data = self.named(self.net.add_quantize(wide, scale, _WEIGHT_TYPES[format]), "_input_quantized")
            return self.cast(self.dequantize(data, scale, "_input_dequantized"), type_, "_input_back")
        layer = self.net.add_dynamic_quantize(wide, len(x.shape) - 1, NVFP4_BLOCK, trt.DataType.FP4, trt.DataType.FP8)
        layer.set_input(1, scale)
        data = self.named(layer, "_input_quantized")
        blocks = self.dequantize(layer.get_output(1), scale, "_input_block_scales")
        return self.cast(self.dequantize(data, blocks, "_input_dequantized"), type_, "_input_back")

    def flat(self, x: Any) -> Any:
        """``[B, S, K]`` as ``[B * S, K]``."""
        layer = self.net.add_shuffle(x)
        layer.reshape_dims = (-1, x.shape[-1])
        return self.named(layer, "_flat")

    def unflat(self, out: Any, like: Any) -> Any:
        """``[B * S, N]`` as ``[B, S, N]``, B and S as in ``like``."""
        rank = len(like.shape)
        sizes = self.named(self.net.add_shape(like), "_sizes")
        lead = self.named(self.net.add_slice(sizes, (0,), (rank - 1,), (1,)), "_lead_sizes")
        width = self.constant(torch.tensor([out.shape[-1]]), trt.DataType.INT64, (1,), "_width")
        layer = self.net.add_shuffle(out)
        layer.set_input(1, self.named(self.net.add_concatenation([lead, width]), "_out_sizes"))
        return self.named(layer, "_unflat")


def storage_type(type_: Any, scale: Tensor) -> Any:
    """The type to store a scale in beside data of ``type_``: the same, unless float32 is needed to keep its value."""
    stored = _TORCH_TYPES[type_]
    wide = scale.float()
    error = (wide.to(stored).float() - wide).abs()
    return type_ if bool((error <= _SCALE_TOLERANCE[stored] * wide.abs()).all()) else trt.DataType.FLOAT


@dynamo_tensorrt_converter(torch.ops.tt_edge.quantized_linear.default, supports_dynamic_shapes=True)  # type: ignore[untyped-decorator]
def quantized_linear(ctx: ConversionContext, _target: Any, args: Sequence[Any], _kwargs: Any, name: str) -> Any:
    """Quantize and dequantize the input where it has a scale, dequantize the weight, multiply, add the bias."""
    x, values, scale, bias, global_scale, input_scale, format = args
    build = _QuantizedLinear(ctx, name)
    key = str(ctx.current_node.args[1].target).removeprefix("model.").removesuffix(".values")
    flat = format == "nvfp4" and input_scale is not None and len(x.shape) > 2
    rows = build.flat(x) if flat else x
    quantized = rows if input_scale is None else build.input(rows, input_scale, format)
    matrix = build.weight(values, scale, global_scale, format, len(rows.shape), x.dtype, f"{key}.weight")
    none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    out = build.named(build.net.add_matrix_multiply(quantized, none, matrix, transpose), "")
    if bias is not None:
        offset = get_trt_tensor(ctx, bias.reshape((1,) * (len(rows.shape) - 1) + (-1,)), f"{key}.bias")
        out = build.named(build.net.add_elementwise(out, offset, trt.ElementWiseOperation.SUM), "_bias")
    return build.unflat(out, x) if flat else out
