"""Modules of positions that do not count padding tokens: fairseq's, in FSMT, M2M-100, Speech2Text and TrOCR.

Such a module numbers tokens by their ids: a padding token has no place, and those after it have the one before. In a source, that
would be a running count, and a source with a padding token is refused. In an answer, ``generate()`` gives the module one token
and the length of the cache, so that a padding token has an embedding of its own at each position, and others are as ever.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tt_edge.errors import UnsupportedModelError

_PAST = "past_key_values_length"


@dataclass(frozen=True)
class PositionCall:
    """How a model calls its ``module`` of positions: with token ids ``[1, L]`` first, in the families of interest."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def padding(self) -> int | None:
        """The token that the module does not count; ``None`` for a module that does not look at ids."""
        pad, ids = getattr(self.module, "padding_idx", None), self.args[0] if self.args else None
        if pad is None or not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 2:
            return None
        others = torch.where(ids == pad, pad + 1, ids)
        padded = others.clone()
        padded[:, 0] = pad
        return None if torch.equal(self._embeddings(others), self._embeddings(padded)) else int(pad)

    def padding_table(self, pad: int, length: int) -> Tensor:
        """The embeddings ``[length, H]`` of the token ``pad`` after 0, 1, 2, … others."""
        if _PAST not in inspect.signature(self.module.forward).parameters:
            raise UnsupportedModelError(
                f"{type(self.module).__name__} numbers tokens by their ids without the length of a cache, which no backend has"
            )
        token = torch.full((1, 1), pad, dtype=torch.int64)
        return torch.cat([self._embeddings(token, past)[0] for past in range(length)])

    def _embeddings(self, ids: Tensor, past: int | None = None) -> Tensor:
        """``[1, S, H]``"""
        given = inspect.signature(self.module.forward).bind(ids, *self.args[1:], **self.kwargs)
        if past is not None:
            given.arguments[_PAST] = past
        with torch.no_grad():
            found: Tensor = self.module(*given.args, **given.kwargs)
        return found.view(1, ids.shape[1], -1)
