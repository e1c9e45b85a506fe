"""Linear layers of a model whose weights are quantized, in place of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import tt_edge.plugins.ops.quantization  # noqa: F401  (defines the operator)
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat


class QuantizedLinear(nn.Module):
    """``nn.Linear`` with a ``QuantizedWeight``: exports as the input's preparation and one ``tt_edge::quantized_linear``.

    Computes in the type of its input. The tensors are buffers: they are not trained.
    """

    values: Tensor
    scale: Tensor
    bias: Tensor | None
    global_scale: Tensor | None
    input_scale: Tensor | None
    pre_quant_scale: Tensor | None
    permutation: Tensor | None

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.format = weight.format
        self.in_features, self.out_features = weight.in_features, weight.out_features
        for name in ("values", "scale", "global_scale", "input_scale", "pre_quant_scale", "permutation"):
            self.register_buffer(name, getattr(weight, name))
        self.register_buffer("bias", None if bias is None else bias.detach())
        if weight.format is not WeightFormat.NVFP4 and weight.dynamic_input:
            # TensorRT computes dynamic scales only for FP4 blocks, so the input stays in half precision.
            self.input_scale = None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., K]`` to ``[..., N]``."""
        if self.pre_quant_scale is not None:
            x = x * self.pre_quant_scale.to(x.dtype)
        if self.permutation is not None:
            x = x.index_select(-1, self.permutation)
        result: Tensor = torch.ops.tt_edge.quantized_linear(
            x, self.values, self.scale, self.bias, self.global_scale, self.input_scale, str(self.format)
        )
        return result

    @property
    def weight(self) -> None:
        """None in full precision. T5 asks for the type of a layer's weight before it calls it, if there is one."""
        return None

    def extra_repr(self) -> str:
        return f"{self.format}, in_features={self.in_features}, out_features={self.out_features}"
