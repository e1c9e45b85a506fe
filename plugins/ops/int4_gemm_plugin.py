"""``tt_edge::int4_groupwise_gemm``: what the INT4 plugins compute, as PyTorch math on any device.

On CUDA tensors in 16 bits, tt-edge's kernels compute it where they are built.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tt_edge.plugins.cuda.tensors import int4_linear
from tt_edge.plugins.edgellm.int4_packing import dequantize
from tt_edge.plugins.ops.kernels import kernels_for


@torch.library.custom_op("tt_edge::int4_groupwise_gemm", mutates_args=())
def int4_groupwise_gemm(x: Tensor, weight: Tensor, scales: Tensor, generation: str) -> Tensor:
    """``x`` ``[B, S, K]`` by the transposed weight: ``[B, S, N]``.

    ``weight`` int8 ``[N / 2, K]`` in the order of ``int4_packing``, ``scales`` ``[K / 128, N]``. ``generation`` is
    that of the library, by which its interface is known. NVIDIA's plugin computes in float16; other float types are for
    parity checks.
    """
    if (kernels := kernels_for(x)) is not None and x.numel():
        rows = x.contiguous().view(-1, x.shape[-1])
        return int4_linear(kernels, rows, weight, scales.to(x.dtype)).view(*x.shape[:-1], 2 * weight.shape[0])
    matrix = torch.from_numpy(dequantize(weight.cpu().numpy(), scales.float().cpu().numpy())).to(x.device)
    return torch.nn.functional.linear(x, matrix.to(x.dtype))


@int4_groupwise_gemm.register_fake
def _(x: Tensor, weight: Tensor, scales: Tensor, generation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], 2 * weight.shape[0])
