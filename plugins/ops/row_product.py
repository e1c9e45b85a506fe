"""``tt_edge::row_product``: the product of one row with a weight, by tt-edge's kernel where it is built."""

from __future__ import annotations

import torch
from torch import Tensor

from tt_edge.plugins.cuda.tensors import gemv
from tt_edge.plugins.ops.kernels import kernels_for


@torch.library.custom_op("tt_edge::row_product", mutates_args=())
def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` ``[..., K]`` of one row by the transposed ``weight`` ``[N, K]``: ``[..., N]``."""
    kernels = kernels_for(x)
    if kernels is None or x.shape[-1] % 8 or not weight.is_contiguous():
        return torch.nn.functional.linear(x, weight)
    return gemv(kernels, x.reshape(1, -1), weight).view(*x.shape[:-1], len(weight))


@row_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
