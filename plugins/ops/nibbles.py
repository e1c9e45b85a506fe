"""Two 4-bit values a byte, the first in the low nibble: how INT4 and NVFP4 weights are kept in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """``[..., 2M]`` integers, of which the low four bits count, to ``[..., M]`` uint8."""
    codes = codes.view(torch.uint8) if codes.dtype == torch.int8 else codes.to(torch.uint8)
    return codes[..., 0::2].bitwise_and(0xF).bitwise_or_(codes[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """``[..., M]`` uint8 to ``[..., 2M]`` uint8 of 0 to 15."""
    codes = packed.new_empty(*packed.shape, 2)
    torch.bitwise_and(packed, 0xF, out=codes[..., 0])
    torch.bitwise_right_shift(packed, 4, out=codes[..., 1])
    return codes.flatten(-2)


def unpack_signed_nibbles(packed: Tensor) -> Tensor:
    """``[..., M]`` uint8 of two's complement nibbles to ``[..., 2M]`` int8 of -8 to 7."""
    return unpack_nibbles(packed).bitwise_xor_(8).view(torch.int8).sub_(8)
