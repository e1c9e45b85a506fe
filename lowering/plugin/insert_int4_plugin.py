"""Replace INT4 linear layers by Int4GroupwiseGemmPlugin."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule

import tt_edge.plugins.ops.int4_gemm_plugin
import tt_edge.plugins.ops.quantization  # noqa: F401  (both define operators)
from tt_edge.errors import LoweringError
from tt_edge.lowering.base import (
    LoweringContext,
    LoweringPass,
    add_constant,
    aten,
    calls,
    constant_of,
    emit,
    replace,
    shape,
    value,
)
from tt_edge.plugins.edgellm.int4_packing import fits, pack
from tt_edge.plugins.ops.number_formats import unpack_signed_nibbles

ops = torch.ops.tt_edge


class InsertInt4Plugin(LoweringPass):
    """Replace INT4 linear layers that NVIDIA's plugin supports.

    Before::

        1. y = tt_edge.quantized_linear(x, values, scale, bias, None, None, "int4")

    After::

        1. z = tt_edge.int4_groupwise_gemm(x, weight, scales, …)    values in the plugin's order; scales transposed
        2. y = aten.add(z, bias)                                    if there is one

    AWQ's scaling of the input is applied before ``x`` and stays. A layer stays TensorRT's own blocked INT4 if its group size
    is not 128, if the plugin does not support its width or height, or if it has one token per slot (a quantized head).
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        graph, matches, generation = module.graph, 0, str(context.config.attention.plugin_contract)
        for node in calls(graph, ops.quantized_linear.default):
            arguments: Any = node.args
            x, values, scale, bias, _, _, format = arguments
            if format != "int4" or len(shape(x)) != 3 or len(shape(scale)) != 2:
                continue
            rows, columns = int(shape(values)[0]), 2 * int(shape(values)[1])
            if not fits(rows, columns, columns // int(shape(scale)[1])):
                continue
            packed_values, scales = constant_of(module, values), constant_of(module, scale)
            if packed_values is None or scales is None:
                raise LoweringError(f"the weight of {node.name} is no constant; please report the model type")
            codes = unpack_signed_nibbles(packed_values).to(torch.int8).numpy()
            name = str(values.target).removesuffix(".values").replace(".", "_")
            with graph.inserting_before(node):
                weight = add_constant(module, f"{name}_int4", torch.from_numpy(pack(codes)))
                grouped = add_constant(module, f"{name}_scales", scales.to(value(x).dtype).T.contiguous())
                result = emit(graph, ops.int4_groupwise_gemm.default, x, weight, grouped, generation, like=node)
                if bias is not None:
                    result = emit(graph, aten.add.Tensor, result, bias, like=node)
            replace(node, result)
            matches += 1
        return matches
