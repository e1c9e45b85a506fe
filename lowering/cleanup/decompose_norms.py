"""Normalizations of convolutional networks as arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from tt_edge.lowering.base import LoweringContext, LoweringPass, aten, calls
from tt_edge.lowering.cleanup.decompose_unsupported import inline


class DecomposeNorms(LoweringPass):
    """Express group norm and batch norm by sums and products.

    A batch norm has a converter, to a layer that cannot be captured, and PyTorch's decomposition of a group norm cannot be traced
    node by node. The scale and shift of a batch norm depend only on weights: ``FoldConstants`` computes them.

    Before::

        1. y = aten.batch_norm(x, weight, bias, mean, var, …)

    After::

        1. scale = aten.rsqrt(var + eps)
        2. y = (x * scale + -mean * scale) * weight + bias
    """

    def rewrite(self, module: GraphModule, context: LoweringContext) -> int:
        nodes = list(calls(module.graph, *_FUNCTIONS))
        for node in nodes:
            inline(module, node, _FUNCTIONS[node.target], {})
        return len(nodes)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """``aten.group_norm`` of ``x`` ``[B, C, ...]``, in fp32 as PyTorch computes it."""
    batch, channels, *sizes = x.shape
    split = x.float().reshape(batch, groups, channels // groups, *sizes)
    dims = list(range(2, split.ndim))
    centred = split - split.mean(dims, keepdim=True)
    scaled = centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    return _affine(scaled.reshape(x.shape).to(x.dtype), weight, bias)


def _native_group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, _n: int, _c: int, _hw: int, groups: int, eps: float
) -> tuple[Tensor]:
    """``aten.native_group_norm``, of which only the first result is used."""
    return (group_norm(x, groups, weight, bias, eps),)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    _training: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool,
) -> Tensor:
    """``aten.batch_norm`` of ``x`` ``[B, C, ...]`` with the statistics of training."""
    scale = torch.rsqrt(var + eps)
    return _affine(_affine(x, scale, -mean * scale), weight, bias)


def _native_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, _momentum: float, eps: float
) -> tuple[Tensor]:
    """``aten._native_batch_norm_legit_no_training``, of which only the first result is used."""
    return (batch_norm(x, weight, bias, mean, var, False, _momentum, eps, False),)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``x * weight + bias``, by channel."""
    shape = [1, x.shape[1]] + [1] * (x.ndim - 2)
    if weight is not None:
        x = x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    aten.group_norm.default: group_norm,
    aten.native_group_norm.default: _native_group_norm,
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: _native_batch_norm,
}
