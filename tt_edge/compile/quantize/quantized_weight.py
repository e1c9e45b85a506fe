"""The weight of one quantized linear layer: the common form that every checkpoint format is converted to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor

from tt_edge.errors import InvalidInputError
from tt_edge.number_formats import NVFP4_BLOCK
from tt_edge.plugins.ops.number_formats import e2m1_values, unpack_nibbles, unpack_signed_nibbles


class WeightFormat(StrEnum):
    """How the elements of a weight are stored."""

    FP8 = "fp8"
    """E4M3, one byte."""
    INT8 = "int8"
    """Signed, one byte."""
    INT4 = "int4"
    """Signed, -8 to 7, two's complement, two a byte."""
    NVFP4 = "nvfp4"
    """E2M1 codes, two a byte, with an E4M3 scale for each 16 elements and one fp32 scale for all."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tensor that holds the elements."""
        return {"fp8": torch.float8_e4m3fn, "int8": torch.int8}.get(self.value, torch.uint8)

    @property
    def elements_per_byte(self) -> int:
        return 2 if self in (WeightFormat.INT4, WeightFormat.NVFP4) else 1


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight of ``N`` output and ``K`` input features, quantized symmetrically. All tensors are on the CPU.

    The layer computes ``y = (x * pre_quant_scale)[..., permutation] @ dequantized(values).T``; a field that is ``None`` is
    skipped. Raises ``InvalidInputError`` for inconsistent shapes or types.
    """

    format: WeightFormat
    values: Tensor
    """``[N, K]`` of ``format.dtype``; for INT4 and NVFP4 ``[N, K/2]`` uint8, the even column in the low nibble."""
    scale: Tensor
    """``[1]`` per tensor, ``[N]`` per channel, or ``[N, K/group]`` per block. fp32, fp16 or bf16; E4M3 for NVFP4."""
    global_scale: Tensor | None = None
    """NVFP4 only, ``[]`` fp32: an element is ``e2m1 * scale * global_scale``."""
    input_scale: Tensor | None = None
    """``[]`` fp32 if activations are quantized by a calibrated scale. For NVFP4, the scale above the block scales."""
    dynamic_input: bool = False
    """Activations are quantized to ``format`` dynamically: per token, or for NVFP4 per block of 16."""
    pre_quant_scale: Tensor | None = None
    """``[K]``, in the checkpoint's type: the input is multiplied by it first (AWQ and SmoothQuant of modelopt)."""
    permutation: Tensor | None = None
    """``[K]`` int64: column ``i`` of ``values`` belongs to input feature ``permutation[i]`` (act-order GPTQ)."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != self.format.dtype:
            raise InvalidInputError(
                f"{self.format} weight is {list(self.values.shape)} {_name(self.values.dtype)}, "
                f"expected two dimensions of {_name(self.format.dtype)}; download the checkpoint again"
            )
        n, k = self.out_features, self.in_features
        shape = tuple(self.scale.shape)
        blocks = len(shape) == 2 and shape[0] == n and shape[1] > 0 and k % shape[1] == 0
        if not (blocks or (shape in ((1,), (n,)) and self.format.elements_per_byte == 1)):
            raise InvalidInputError(
                f"{self.format} weight of {n} x {k} has scales of shape {list(shape)}; download the checkpoint again"
            )
        if self.format is WeightFormat.NVFP4 and (
            self.scale.dtype != torch.float8_e4m3fn or self.group_size != NVFP4_BLOCK or self.global_scale is None
        ):
            raise InvalidInputError(
                f"nvfp4 weight of {n} x {k} has {_name(self.scale.dtype)} scales of shape {list(shape)}, "
                f"expected float8_e4m3fn for each {NVFP4_BLOCK} elements and a global scale; download the checkpoint again"
            )
        for name in ("pre_quant_scale", "permutation"):
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != (k,):
                raise InvalidInputError(
                    f"{name} is {list(tensor.shape)}, expected [{k}]; download the checkpoint again"
                )

    @property
    def out_features(self) -> int:
        """``N``."""
        return self.values.shape[0]

    @property
    def in_features(self) -> int:
        """``K``."""
        return self.values.shape[1] * self.format.elements_per_byte

    @property
    def group_size(self) -> int | None:
        """Columns that share a scale, or ``None`` for a scale per tensor or per channel."""
        return self.in_features // self.scale.shape[1] if self.scale.ndim == 2 else None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def unpacked(self) -> Tensor:
        """Elements without their scales ``[N, K]``: int8 of -8 to 7 for INT4, fp32 for NVFP4, otherwise ``values``."""
        if self.format is WeightFormat.INT4:
            return unpack_signed_nibbles(self.values)
        if self.format is WeightFormat.NVFP4:
            return e2m1_values(unpack_nibbles(self.values))
        return self.values

    def dequantize(self) -> Tensor:
        """The ``[N, K]`` fp32 matrix with ``y = x @ matrix.T``: columns in the model's order, pre-quant scale multiplied in.

        For tests, and for layers that cannot stay quantized: it is four to eight times the size of ``values``.
        """
        scale = self.scale.float()
        if self.global_scale is not None:
            scale = scale * self.global_scale
        matrix = self.unpacked().float()
        blocks = matrix.view(self.out_features, scale.shape[1] if scale.ndim == 2 else 1, -1)
        blocks.mul_(scale[..., None] if scale.ndim == 2 else scale[:, None, None])
        if self.permutation is not None:
            matrix = torch.empty_like(matrix).index_copy_(1, self.permutation, matrix)
        if self.pre_quant_scale is not None:
            matrix.mul_(self.pre_quant_scale.float())
        return matrix


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
