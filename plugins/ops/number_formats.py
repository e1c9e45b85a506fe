"""Number formats over torch tensors: two 4-bit values in a byte, low nibble first, and E2M1.

Their facts are in ``tt_edge.number_formats``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tt_edge.number_formats import E2M1_MIDPOINTS, E2M1_VALUES


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


def e2m1_codes(x: Tensor) -> Tensor:
    """Codes 0 to 15, uint8, of the E2M1 values nearest to ``x``, ties to the even code, beyond 6 saturated."""
    magnitude = x.abs()
    midpoints = torch.tensor(E2M1_MIDPOINTS, dtype=x.dtype, device=x.device)
    up = torch.bucketize(magnitude, midpoints, right=True)
    down = torch.bucketize(magnitude, midpoints, right=False)
    codes = torch.where(down % 2 == 0, down, up)  # they differ where magnitude is a midpoint
    return (codes + 8 * torch.signbit(x)).to(torch.uint8)


def e2m1_values(codes: Tensor) -> Tensor:
    """The float32 values of codes 0 to 15."""
    table = torch.tensor(E2M1_VALUES, device=codes.device)
    return table[codes.int()]
