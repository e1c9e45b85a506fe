"""Embeddings of tokens of which one has an embedding of its own: T5Gemma 2's end of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def chosen_embeddings(model: nn.Module) -> Iterator[None]:
    """Within the block, such modules choose between both embeddings; transformers writes one over the other, in place."""
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "eoi_embedding") and hasattr(module, "eoi_token_index"):
                stack.enter_context(patch.object(module, "forward", _chosen(module)))
        yield


def _chosen(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(input_ids: Tensor) -> Tensor:
        weight = module.weight
        plain = functional.embedding(input_ids, weight) * module.embed_scale.to(weight.dtype)
        is_end = (input_ids == module.eoi_token_index).unsqueeze(-1)
        return torch.where(is_end, module.eoi_embedding.to(weight.dtype), plain)

    return forward
