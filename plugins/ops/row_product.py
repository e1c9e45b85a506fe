"""``tt_edge::row_product``: a linear layer with its neighbours, for one row by tt-edge's kernel where it is built."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from tt_edge.plugins.cuda import tensors
from tt_edge.plugins.ops.kernels import kernels_for


@torch.library.custom_op("tt_edge::row_product", mutates_args=())
def row_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
) -> Tensor:
    """``gate(norm(x) @ weight.T + bias) + residual``: ``[..., K]`` and ``[N, K]`` (gated: ``[2 N, K]``) to ``[..., N]``.

    ``norm`` ``[K]`` is the weight of an RMSNorm of ``x``; ``gated`` is ``silu(first half) * second half``. Operands are contiguous.
    One row on a GPU takes the kernel, which rounds once, at the end; otherwise each step rounds as PyTorch does.
    """
    kernels = kernels_for(x) if x.numel() == x.shape[-1] and x.shape[-1] % 8 == 0 else None
    if kernels is not None:
        y = tensors.row_product(kernels, x.reshape(-1), weight, bias, residual, norm, eps, gated)
        return y.view(*x.shape[:-1], len(y))
    if norm is not None:
        wide = x.float()
        x = norm * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    y = linear(x, weight, bias)
    if gated:
        gate, up = y.chunk(2, dim=-1)
        y = silu(gate) * up
    return y if residual is None else residual + y


@row_product.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    gated: bool = False,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0] // (2 if gated else 1))
