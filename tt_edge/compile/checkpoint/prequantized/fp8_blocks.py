"""FP8 with a scale for each block of rows and columns, as DeepSeek-V3's and Qwen3's FP8 checkpoints and transformers have it.

A layer has ``weight`` ``[N, K]`` E4M3 and ``weight_scale_inv``, which despite its name is a factor:
``[ceil(N/rows), ceil(K/columns)]``, or one scale for the whole weight. ``weight_block_size`` is usually 128 x 128.

The scales are repeated for the rows of a block, so elements stay exactly what they are. The scales that activations have are
computed from each input, for which TensorRT has no form: these layers compute in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tt_edge.compile.checkpoint.prequantized.detect import Config
from tt_edge.compile.checkpoint.prequantized.reader import LinearReader
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat
from tt_edge.errors import InvalidInputError, UnsupportedModelError


class Fp8BlockReader(LinearReader):
    """Layers of ``quant_method`` ``fp8``."""

    tensors = frozenset({"weight", "weight_scale_inv"})

    def __init__(self, config: Config) -> None:
        scheme = config.get("activation_scheme", "dynamic")
        if scheme != "dynamic":
            raise UnsupportedModelError(
                f"FP8 blocks with {str(scheme)[:80]} activations are not read; use a checkpoint with dynamic ones, or the "
                "full-precision one with --quant fp8"
            )
        self._block = block_size(config.get("weight_block_size"))

    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """See ``LinearReader.read``."""
        weight, scale = tensors["weight"], tensors["weight_scale_inv"]
        return QuantizedWeight(WeightFormat.FP8, weight, in_groups(scale, weight, self._block), dynamic_input=True)


def block_size(given: Any) -> tuple[int, int] | None:
    """Rows and columns of a block; ``None`` for one scale per weight. Raises ``InvalidInputError`` for anything else."""
    if given is None:
        return None
    if not (
        isinstance(given, list | tuple) and len(given) == 2 and all(type(size) is int and size > 0 for size in given)
    ):
        raise InvalidInputError(
            f"the block size of quantization_config is {str(given)[:80]!r}, not two numbers; download the checkpoint again"
        )
    return given[0], given[1]


def in_groups(scale: Tensor, weight: Tensor, block: tuple[int, int] | None) -> Tensor:
    """``scale``, one per block, as ``QuantizedWeight.scale`` of ``weight``: for each row, by groups of columns.

    A group is the largest part of a block that divides the row. Raises ``InvalidInputError`` if the sizes do not fit together.
    """
    if scale.numel() == 1:
        return scale.flatten()
    (n, k), wanted = weight.shape, None
    if block is not None:
        wanted = [math.ceil(n / block[0]), math.ceil(k / block[1])]
    if block is None or list(scale.shape) != wanted:
        raise InvalidInputError(
            f"weight of {n} x {k} has scales of shape {list(scale.shape)}, and blocks of {block} need {wanted}; download the "
            "checkpoint again"
        )
    group = math.gcd(block[1], k)
    columns = torch.arange(0, k, group) // block[1]
    return scale[torch.arange(n) // block[0]][:, columns].contiguous()
