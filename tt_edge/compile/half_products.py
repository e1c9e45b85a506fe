"""16-bit models on a CPU: their products computed in float32.

PyTorch multiplies float16 and bfloat16 matrices on a CPU without 16-bit arithmetic 6 to 10 times slower than float32 ones
(11 and 67 GFLOP/s for a linear layer, 3 and 29 for a batch of products, on two cores with AVX2). Both add up in float32
and round the sum once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

_HALF = (torch.float16, torch.bfloat16)
#: The functions, with the position of the last tensor among their arguments that is multiplied.
_PRODUCTS: dict[Callable[..., Any], int] = {
    functional.linear: 2,
    functional.conv2d: 2,
    functional.conv3d: 2,
    functional.scaled_dot_product_attention: 3,
    torch.matmul: 1,
    torch.bmm: 1,
    Tensor.matmul: 1,
    Tensor.__matmul__: 1,
    Tensor.bmm: 1,
}
#: Elements of the first two factors together below which the conversion is not worth it.
_SMALL = 1 << 19
#: Rows of a linear layer's weight that are converted at a time, in elements: a head of 256,000 tokens has gigabytes.
_PART = 1 << 26


class _Float32Products(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        last = _PRODUCTS.get(func)
        if last is None or not _is_worth_it(args[: last + 1], kwargs):
            return func(*args, **kwargs)
        dtype = args[0].dtype
        if func is functional.linear and args[1].numel() > _PART:
            return _linear_in_parts(*args, **kwargs)
        wide = [_widened(each) if index <= last else each for index, each in enumerate(args)]
        return func(*wide, **{name: _widened(each) for name, each in kwargs.items()}).to(dtype)


def _is_worth_it(factors: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the product is large, and of 16-bit tensors of one type with values on the CPU.

    PyTorch's own code refuses mixed types, writes to ``out``, and is what a tracer sees (it is a mode of the dispatcher).
    """
    if len(factors) < 2 or "out" in kwargs or _get_current_dispatch_mode() is not None:
        return False
    first, second = factors[:2]
    if not isinstance(first, Tensor) or not isinstance(second, Tensor) or first.dtype not in _HALF:
        return False
    tensors = [each for each in (*factors, *kwargs.values()) if isinstance(each, Tensor)]
    return first.numel() + second.numel() > _SMALL and all(
        type(each) in (Tensor, torch.nn.Parameter)
        and each.device.type == "cpu"
        and each.dtype in (first.dtype, torch.bool)  # a mask may be boolean
        for each in tensors
    )


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def _linear_in_parts(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    wide, rows = x.float(), max(1, _PART // weight.shape[1])
    biases = [None] * math.ceil(len(weight) / rows) if bias is None else torch.split(bias.expand(len(weight)), rows)
    parts = zip(torch.split(weight, rows), biases, strict=True)
    return torch.cat([functional.linear(wide, part.float(), _widened(own)).to(x.dtype) for part, own in parts], dim=-1)


@contextmanager
def float32_products() -> Iterator[None]:
    """Compute large products of 16-bit tensors on the CPU in float32, rounding the result; not while a model is traced."""
    with _Float32Products():
        yield
