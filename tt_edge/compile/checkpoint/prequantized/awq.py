"""AWQ as AutoAWQ and GPTQModel write it, in the GEMM layout.

A layer has ``qweight`` ``[K, N/8]`` int32, ``qzeros`` ``[K/group, N/8]`` int32 and ``scales`` ``[K/group, N]`` fp16. A word
holds eight output features in the order 0 2 4 6 1 3 5 7, the first in the lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tt_edge.compile.checkpoint.prequantized.detect import Config
from tt_edge.compile.checkpoint.prequantized.reader import (
    LinearReader,
    check_group_size,
    check_groups,
    int32,
    integer_weight,
)
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight
from tt_edge.errors import UnsupportedModelError

#: The position of the lowest bit of each output feature's 4-bit field.
_SHIFTS = torch.tensor([4 * (0, 2, 4, 6, 1, 3, 5, 7).index(feature) for feature in range(8)], dtype=torch.int32)
_LOW = 0x0F0F0F0F  # the low nibble of each byte


class AwqReader(LinearReader):
    """4-bit layers with zero points."""

    tensors = frozenset({"qweight", "qzeros", "scales"})

    def __init__(self, config: Config) -> None:
        layout = str(config.get("version") or config.get("format") or "gemm").lower()
        bits = config.get("bits", 4)
        if layout != "gemm" or bits != 4:
            raise UnsupportedModelError(
                f"AWQ with {bits} bits in the {layout} layout is not read; use a checkpoint of 4 bits in the gemm layout"
            )
        self._group_size: int = config.get("group_size", -1)
        check_group_size(self._group_size)

    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """See ``LinearReader.read``."""
        words, zeros = int32(tensors["qweight"]), int32(tensors["qzeros"])
        scale = tensors["scales"].t().contiguous()  # [N, K/group]
        check_groups(words.shape[0], scale.shape[1], self._group_size)
        zero_points = (zeros.T[:, None] >> _SHIFTS[:, None]) & 0xF  # [N/8, 8, K/group]
        return integer_weight(4, _pairs_of_columns(words), zero_points.flatten(0, 1), scale)


def _pairs_of_columns(words: Tensor) -> Tensor:
    """Convert stored words ``[K, N/8]`` int32 to nibbles ``[N, K/2]`` uint8."""
    words = words.T.contiguous()  # transpose words, not bytes: a quarter of the moves
    even, odd = words[:, 0::2], words[:, 1::2]
    # Each byte of these holds one output feature in two columns: features 0 4 1 5, and 2 6 3 7.
    low = (odd & _LOW).bitwise_left_shift_(4).bitwise_or_(even & _LOW)
    high = (even >> 4).bitwise_and_(_LOW).bitwise_or_(odd & ~_LOW)
    both = torch.stack((low, high)).view(torch.uint8).view(2, *low.shape, 2, 2)
    # Transpose from [low or high nibble, N/8, K/2, bit 1, bit 0 of the byte's index] to the order of output features.
    return both.permute(1, 4, 0, 3, 2).reshape(-1, low.shape[1])
