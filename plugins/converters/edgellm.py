"""The layers of NVIDIA's plugins and of tt-edge's; see ``tt_edge.network.plugins``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorrt as trt
import torch
from torch_tensorrt import dtype as torch_tensorrt_dtype
from torch_tensorrt.dynamo.conversion import ConversionContext, dynamo_tensorrt_converter
from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

import tt_edge.plugins.ops.attention_plugin
import tt_edge.plugins.ops.int4_gemm_plugin
import tt_edge.plugins.ops.vit_attention_plugin  # noqa: F401  (all define operators)
from tt_edge.network.ir import Layer
from tt_edge.network.plugins import plugin_attributes, record
from tt_edge.plugins.edgellm import int4_packing, vit_contract
from tt_edge.plugins.edgellm.contracts import GENERATIONS, VERSION, FieldType, Interface


@dynamo_tensorrt_converter(  # type: ignore[untyped-decorator]
    torch.ops.tt_edge.attention_plugin.default, supports_dynamic_shapes=True
)
def attention_plugin(ctx: ConversionContext, target: Any, args: Sequence[Any], kwargs: Any, name: str) -> list[Any]:
    """One attention plugin, beside the network."""
    # Where no window, scales or softcap are given, they are not there.
    given: list[Any] = [*args, *(-1, None, 0.0)[len(args) - 6 :]]
    inputs, version, q_heads, kv_heads, head_size, scale, window, scales, softcap = given
    generation = GENERATIONS[version]
    fields = generation.field_values(
        num_q_heads=q_heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        attention_scale=scale,
        sliding_window_size=window,
        # Queries are rounded too in some kernels of the context phase, by a scale of their own.
        qkv_scales=tuple(scales) if scales else None,
        softcap=softcap,
        has_sinks=len(inputs) > len(generation.inputs),
    )
    kind = "PLUGIN_V2" if generation.interface is Interface.V2 else "PLUGIN_V3"
    layer = Layer(
        name, kind, [], [], plugin_attributes(generation.name, VERSION, generation.namespace, version, fields)
    )
    tensors = [
        get_trt_tensor(ctx, tensor, f"{name}_{operand.name}")
        for tensor, operand in zip(inputs, generation.operands(len(inputs)), strict=True)
    ]
    return record(ctx.net, layer, tensors, [_described(fake) for fake in ctx.current_node.meta["val"]])


@dynamo_tensorrt_converter(  # type: ignore[untyped-decorator]
    torch.ops.tt_edge.int4_groupwise_gemm.default, supports_dynamic_shapes=True
)
def int4_groupwise_gemm(ctx: ConversionContext, target: Any, args: Sequence[Any], kwargs: Any, name: str) -> Any:
    """One INT4 plugin, beside the network."""
    *inputs, version = args
    rows, columns = 2 * int(inputs[1].shape[0]), int(inputs[1].shape[1])
    values = (rows, columns, int4_packing.GROUP_SIZE)
    fields = {field: (FieldType.INT32, value) for field, value in zip(int4_packing.FIELDS, values, strict=True)}
    kind = "PLUGIN_V2" if GENERATIONS[version].interface is Interface.V2 else "PLUGIN_V3"
    plugin, namespace = int4_packing.plugin_of(version)
    attributes = plugin_attributes(plugin, int4_packing.VERSION, namespace, version, fields)
    tensors = [
        get_trt_tensor(ctx, tensor, f"{name}_{part}")
        for tensor, part in zip(inputs, ("x", "weight", "scales"), strict=True)
    ]
    (result,) = record(
        ctx.net, Layer(name, kind, [], [], attributes), tensors, [_described(ctx.current_node.meta["val"])]
    )
    return result


@dynamo_tensorrt_converter(  # type: ignore[untyped-decorator]
    torch.ops.tt_edge.vit_attention_plugin.default, supports_dynamic_shapes=True
)
def vit_attention_plugin(ctx: ConversionContext, target: Any, args: Sequence[Any], kwargs: Any, name: str) -> Any:
    """One ViTAttentionPlugin, beside the network."""
    *inputs, scale = args
    heads, size = (int(dim) for dim in inputs[0].shape[1:])
    fields = vit_contract.field_values(heads, size, scale)
    attributes = plugin_attributes(
        vit_contract.NAME, vit_contract.VERSION, vit_contract.NAMESPACE, vit_contract.SINCE, fields
    )
    tensors = [
        get_trt_tensor(ctx, tensor, f"{name}_{operand.name}")
        for tensor, operand in zip(inputs, vit_contract.INPUTS, strict=True)
    ]
    layer = Layer(name, "PLUGIN_V3", [], [], attributes)
    (result,) = record(ctx.net, layer, tensors, [_described(ctx.current_node.meta["val"])])
    return result


def _described(fake: torch.Tensor) -> tuple[Any, tuple[int, ...]]:
    """TensorRT element type and shape (-1: dynamic)."""
    sizes = tuple(size if isinstance(size, int) else -1 for size in fake.shape)
    return torch_tensorrt_dtype._from(fake.dtype).to(trt.DataType), sizes
