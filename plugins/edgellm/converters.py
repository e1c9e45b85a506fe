"""The plugin layer for ``tt_edge::attention_plugin``; see ``plugins.native_converters`` and ``tt_edge.network.plugins``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorrt as trt
import torch
from torch_tensorrt import dtype as torch_tensorrt_dtype
from torch_tensorrt.dynamo.conversion import ConversionContext, dynamo_tensorrt_converter
from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

import tt_edge.plugins.edgellm.ops  # noqa: F401  (defines the operator)
from tt_edge.network.ir import Layer
from tt_edge.network.plugins import plugin_attributes, record
from tt_edge.plugins.edgellm.contracts import GENERATIONS, NAME, NAMESPACE, VERSION, Interface


@dynamo_tensorrt_converter(  # type: ignore[untyped-decorator]
    torch.ops.tt_edge.attention_plugin.default, supports_dynamic_shapes=True
)
def attention_plugin(ctx: ConversionContext, target: Any, args: Sequence[Any], kwargs: Any, name: str) -> list[Any]:
    """One AttentionPlugin, beside the network."""
    inputs, version, q_heads, kv_heads, head_size, scale, window = (*args, -1)[:7]  # no window where none is given
    generation = GENERATIONS[version]
    fields = generation.field_values(
        num_q_heads=q_heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        attention_scale=scale,
        sliding_window_size=window,
    )
    kind = "PLUGIN_V2" if generation.interface is Interface.V2 else "PLUGIN_V3"
    layer = Layer(name, kind, [], [], plugin_attributes(NAME, VERSION, NAMESPACE, version, fields))
    tensors = [
        get_trt_tensor(ctx, tensor, f"{name}_{operand.name}")
        for tensor, operand in zip(inputs, generation.inputs, strict=True)
    ]
    outputs = [
        (
            torch_tensorrt_dtype._from(fake.dtype).to(trt.DataType),
            tuple(size if isinstance(size, int) else -1 for size in fake.shape),
        )
        for fake in ctx.current_node.meta["val"]
    ]
    return record(ctx.net, layer, tensors, outputs)
