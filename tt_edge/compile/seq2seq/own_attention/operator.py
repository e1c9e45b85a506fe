"""The operator that such a module emits, and comparing it with the module."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from tt_edge.compile.export.masks import Visibility
from tt_edge.errors import UnsupportedModelError


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scale: float, seen: Any) -> Tensor:
    """``tt_edge::attention`` of ``[B, H, S, D]``. Raises ``UnsupportedModelError`` for what a module sees by a mask of its own."""
    if not isinstance(seen, Visibility):
        raise UnsupportedModelError(
            f"{type(module).__name__} gets a mask that its model makes by itself, which tt-edge does not translate"
        )
    out: Tensor = torch.ops.tt_edge.attention(
        query, key, value, scale, seen.causal, seen.window, 0.0, None, None, seen.ahead
    )
    return out


def hidden_after(length: int, dtype: torch.dtype) -> Tensor:
    """The numbers ``[length, length]`` that hide keys after the query."""
    return torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)


def dtype_of(module: nn.Module) -> torch.dtype:
    """The type that a module of attention computes in; its projections may be quantized, and have biases then, or norms."""
    biases = (getattr(each, "bias", None) for each in module.modules())
    found: torch.dtype = next(t for t in chain(module.parameters(), biases) if isinstance(t, Tensor)).dtype
    return found


def all_equal(pairs: Callable[[], list[tuple[Tensor, Tensor]]]) -> bool:
    """Whether both of each pair are equal; not where one of them cannot be computed."""
    with torch.no_grad():
        try:
            return all(torch.allclose(want, got, rtol=1e-3, atol=1e-3) for want, got in pairs())
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return False
