"""AWQ as AutoAWQ and GPTQModel write it, in the GEMM layout.

A layer has ``qweight`` ``[K, N/8]`` int32, ``qzeros`` ``[K/group, N/8]`` int32 and ``scales`` ``[K/group, N]`` fp16. A word
holds eight output features in the order 0 2 4 6 1 3 5 7, the first in the lowest bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tt_edge.compile.prequantized.detect import Config
from tt_edge.compile.prequantized.reader import LinearReader, check_group_size, check_groups, integer_weight, word_bytes
from tt_edge.compile.quantized_weight import QuantizedWeight
from tt_edge.errors import UnsupportedModelError

#: Where output feature i of a word is found, when the word's bytes are split into their low and high nibbles and
#: these are put one behind the other: low nibbles hold 0 4 1 5, high nibbles 2 6 3 7.
_SPLIT_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class AwqReader(LinearReader):
    """Layers of 4 bits with zero points."""

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
        bytes_, scale = word_bytes(tensors["qweight"]), tensors["scales"]  # [K, N/2], [K/group, N]
        check_groups(bytes_.shape[0], scale.shape[0], self._group_size)
        even, odd = bytes_[0::2], bytes_[1::2]
        # One byte for two columns of the same output feature.
        low = even.bitwise_and(0xF).bitwise_or_(odd << 4)
        high = (even >> 4).bitwise_or_(odd.bitwise_and(0xF0))
        codes = _features_first(low, high)
        zeros = word_bytes(tensors["qzeros"])
        return integer_weight(4, codes, _features_first(zeros & 0xF, zeros >> 4), scale.T.contiguous())


def _features_first(low: Tensor, high: Tensor) -> Tensor:
    """Low and high nibbles ``[R, N/2]`` of the words' bytes to ``[N, R]``, output features in order."""
    rows = low.shape[0]
    split = [nibbles.view(rows, -1, 4) for nibbles in (low, high)]  # [R, N/8, 4] each
    both = torch.cat(split, dim=2)[..., _SPLIT_ORDER]
    return both.flatten(1).T.contiguous()
