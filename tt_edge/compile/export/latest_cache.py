"""A cache that hands out what attention computes, for tracing modules that take part of their keys and values from elsewhere."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class LatestLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of a cache that keeps the latest keys and values, and nothing from before."""

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states

    def get_seq_length(self) -> int:
        return 0
