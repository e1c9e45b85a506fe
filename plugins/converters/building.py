"""Registering converters, and adding named layers to a network.

Converters are registered with torch_tensorrt's registry when their module is imported, which needs torch_tensorrt (and so,
on a host without a GPU, ``tt_edge.compile.gpuless``). Only our own operators are registered: nothing that torch_tensorrt
converts is overridden, and other users of it in the same process see no change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorrt as trt
import torch
from torch_tensorrt.dynamo.conversion import ConversionContext, dynamo_tensorrt_converter
from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor


def converter(target: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register ``convert(network, *args, name)`` for ``target``; constants among its arguments become tensors."""

    def register(convert: Callable[..., Any]) -> Callable[..., Any]:
        def adapted(ctx: ConversionContext, _target: Any, args: Sequence[Any], kwargs: Any, name: str) -> Any:
            tensors = [
                get_trt_tensor(ctx, a, _constant_name(ctx, node, f"{name}_{i}")) if isinstance(a, torch.Tensor) else a
                for i, (a, node) in enumerate(zip(args, ctx.current_node.args, strict=True))
            ]
            return convert(ctx.net, *tensors, **kwargs, name=name)

        dynamo_tensorrt_converter(target, supports_dynamic_shapes=True)(adapted)
        return convert

    return register


def _constant_name(ctx: ConversionContext, node: Any, default: str) -> str:
    """A weight is named as in the checkpoint, the first time: the exporter's wrapper adds the leading ``model.``."""
    name = str(node.target).removeprefix("model.") if isinstance(node, torch.fx.Node) else default
    return default if f"{name} CONSTANT" in ctx.weight_refit_map else name


def named(layer: Any, name: str) -> Any:
    """The output of ``layer``, which is called ``name`` from now on."""
    layer.name = name
    return layer.get_output(0)


def scalar(network: Any, value: float, dtype: Any, rank: int, name: str) -> Any:
    """A constant of shape ``[1] * rank``. ``dtype`` is float32, float16 or an integer type that NumPy has."""
    array = np.full((1,) * rank, value, trt.nptype(dtype))
    return named(network.add_constant(array.shape, trt.Weights(array.copy())), name)
