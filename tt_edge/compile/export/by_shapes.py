"""What a model returns, found from shapes alone: nothing is computed and no weight is read."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

_M = TypeVar("_M", bound=nn.Module)
_R = TypeVar("_R")


def by_shapes(module: _M, call: Callable[[_M], _R]) -> _R:
    """``call(module)``, whose tensors have shapes and types and no values.

    Where values decide the shapes, or ``call`` raises an error, it is called again with values, which takes minutes at real size.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    with torch.no_grad():
        try:
            # A copy, because a module may keep what it computes, and these tensors have no values.
            copied = copy.deepcopy(module, shared)
            with _silent(FakeTensorMode.__module__), FakeTensorMode(allow_non_fake_inputs=True):
                return call(copied)
        except Exception:
            return call(module)


@contextmanager
def _silent(logger_name: str) -> Iterator[None]:
    """Without what this logger says: PyTorch writes the traceback of an operator that fails, which may be tried for its failure."""
    logger = logging.getLogger(logger_name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
