"""Layers of experts, of which each token has one: Switch Transformers'.

transformers runs an expert only on the tokens that chose it, in a loop that depends on their numbers. While such a model is traced,
every expert is run on every token and weighted by zero or its probability, after both have been compared on random numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from tt_edge.compile.seq2seq.own_attention.operator import all_equal
from tt_edge.errors import UnsupportedModelError

_KIND = "SwitchTransformersSparseMLP"


@contextmanager
def every_expert(half: nn.Module, most_tokens: int) -> Iterator[None]:
    """Within the block, layers of experts of ``half``, the encoder or the decoder, are arithmetic.

    ``most_tokens`` is the largest number that ``generate()`` gives it at once. Raises ``UnsupportedModelError`` if it exceeds what
    an expert takes: of more tokens, those that come later would have none.
    """
    found: list[Any] = [module for module in half.modules() if type(module).__name__ == _KIND]
    strange = next((type(each).__name__ for each in half.modules() if type(each).__name__.endswith("SparseMLP")), _KIND)
    if strange != _KIND:
        raise UnsupportedModelError(
            f"{type(half).__name__} is a mixture of experts of another kind ({strange}) than Switch Transformers', which no "
            "backend has; compile a dense model"
        )
    with ExitStack() as stack:
        for module in found:
            capacity = int(module.router.expert_capacity)
            if most_tokens > capacity:
                raise UnsupportedModelError(
                    f"an expert of {type(half).__name__} takes {capacity} tokens of a source, and the source may have "
                    f"{most_tokens}; compile with --max-source-len {capacity} or less"
                )
            if not _is_equal(copy.deepcopy(module).float(), min(capacity, 7)):
                raise UnsupportedModelError(
                    f"{_KIND} computes otherwise than tt-edge knows; please report the model type"
                )
            stack.enter_context(patch.object(module, "forward", _weighted(module)))
        yield


def _weighted(module: Any) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:
        router = module.router
        bias = router.classifier.bias
        logits = functional.linear(
            hidden.to(router.dtype),
            router.classifier.weight.to(router.dtype),
            None if bias is None else bias.to(router.dtype),
        )
        probabilities = functional.softmax(logits, dim=-1).to(hidden.dtype)  # [B, S, experts]
        chosen = probabilities.argmax(-1, keepdim=True) == torch.arange(router.num_experts)
        weights = torch.where(chosen, probabilities, 0.0)
        parts = [module.experts[f"expert_{i}"](hidden) * weights[..., i : i + 1] for i in range(router.num_experts)]
        return torch.stack(parts).sum(0)

    return forward


def _is_equal(module: Any, tokens: int) -> bool:
    weight = module.router.classifier.weight
    states = torch.randn(2, tokens, weight.shape[1], generator=torch.Generator().manual_seed(0))
    states = states.to(next(module.experts.parameters()).dtype)
    return all_equal(lambda: [(module(states), _weighted(module)(states))])
