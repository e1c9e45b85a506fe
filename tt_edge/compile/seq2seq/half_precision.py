"""Tracing encoders that look for infinite numbers in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor


class _NotAll:
    """What ``torch.isfinite`` returns while a model is traced: somewhere, a number is not finite."""

    def all(self) -> bool:
        return False


@contextmanager
def unconditional_limits() -> Iterator[None]:
    """Within the block, models limit their numbers to the range of fp16 less 1,000 whether or not one of them is infinite.

    BART and its relatives do so only if one is, which is no question for a traced graph, and would let a token's numbers depend
    on another's. ``LimitHalfPrecision`` does the same to T5. The result differs only for finite numbers beyond 64,504.
    """

    def isfinite(_tensor: Tensor) -> _NotAll:
        return _NotAll()

    with patch.object(torch, "isfinite", isfinite):
        yield
