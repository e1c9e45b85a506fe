"""GPTQ as AutoGPTQ and GPTQModel write it.

A layer has ``qweight`` ``[K*bits/32, N]`` int32, ``qzeros`` ``[K/group, N*bits/32]`` int32, ``scales`` ``[K/group, N]`` and
``g_idx`` ``[K]``, the group of each input feature. Words hold consecutive features, the first in the lowest bits.
With act-order (``desc_act``) the groups are scattered over the input features.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from tt_edge.compile.checkpoint.prequantized.detect import Config
from tt_edge.compile.checkpoint.prequantized.reader import (
    LinearReader,
    check_group_size,
    check_groups,
    group_order,
    integer_weight,
    word_bytes,
)
from tt_edge.compile.quantize.quantized_weight import QuantizedWeight
from tt_edge.errors import UnsupportedModelError
from tt_edge.plugins.ops.number_formats import unpack_nibbles

#: The format "gptq" stores each zero point minus one. Its writers subtract the ones from the whole word, with borrows
#: between features, so adding the same constant to the word restores the zero points exactly.
_ONES = {4: 0x11111111, 8: 0x01010101}


class GptqReader(LinearReader):
    """Layers of 4 or 8 bits; the number may differ from layer to layer."""

    tensors = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    def __init__(self, config: Config) -> None:
        layout = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
        if layout not in ("gptq", "gptq_v2"):
            raise UnsupportedModelError(
                f"GPTQ in the {layout} layout is not read; use a checkpoint in the gptq or gptq_v2 layout"
            )
        self._zeros_less_one = layout == "gptq"
        self._group_size: int = config.get("group_size", -1)
        if _check_bits(config.get("bits")) == 4:
            check_group_size(self._group_size)

    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """See ``LinearReader.read``."""
        words, zeros, scale = tensors["qweight"], tensors["qzeros"], tensors["scales"].t().contiguous()
        n, groups = scale.shape
        bits = _check_bits(32 * zeros.shape[1] / n)
        k = words.shape[0] * 32 // bits
        order = None
        if "g_idx" in tensors:
            order = group_order(tensors["g_idx"], k, groups)
        else:
            check_groups(k, groups, self._group_size if self._group_size > 0 else k)
        # The bytes of a word are in the order of its features, so they are only concatenated: [N, K*bits/8].
        codes = word_bytes(words).view(-1, n, 4).permute(1, 0, 2).flatten(1)
        if self._zeros_less_one:
            zeros = zeros + _ONES[bits]
        zero_points = word_bytes(zeros)
        if bits == 4:
            zero_points = unpack_nibbles(zero_points)
        return integer_weight(bits, codes, zero_points.T, scale, order)


def _check_bits(bits: float | None) -> int:
    if bits not in (4, 8):
        raise UnsupportedModelError(
            f"GPTQ with {bits and round(bits, 2)} bits is not read; use a checkpoint of 4 or 8 bits"
        )
    return int(bits)
