"""Decoders that count positions by a module of their own, and make their own causal mask, as in fairseq (Kosmos-2)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from tt_edge.compile.export.masks import Visibility

#: The method of older models that makes a mask of a length, and the name of their module of positions.
_MASK, _POSITIONS = "_prepare_decoder_attention_mask", "embed_positions"


@contextmanager
def by_positions(decoder: Any) -> Iterator[None]:
    """Within the block, ``decoder`` looks positions up by ``position_ids``, counted from 0, in a table that its module makes; and
    its mask is the causal one, if that is what it makes."""
    with ExitStack() as stack:
        module = getattr(decoder, _POSITIONS, None)
        if module is not None and {"inputs_embeds", "position_ids"} <= set(
            inspect.signature(module.forward).parameters
        ):
            table = _table(decoder, module)

            def forward(*_: Any, position_ids: Tensor, **__: Any) -> Tensor:
                return functional.embedding(position_ids, table)

            stack.enter_context(patch.object(module, "forward", forward))
        if hasattr(decoder, _MASK) and _is_causal(decoder):
            stack.enter_context(patch.object(decoder, _MASK, lambda *_, **__: Visibility(causal=True)))
        yield


def _table(decoder: Any, module: nn.Module) -> Tensor:
    """The embeddings ``[length, H]`` of the tokens of a text, from its first on."""
    weight = decoder.embed_tokens.weight
    places = int(decoder.config.max_position_embeddings)
    with torch.no_grad():
        made: Tensor = module(inputs_embeds=weight.new_zeros(1, places, weight.shape[1]))
    return made[0].to(weight.dtype).clone()


def _is_causal(decoder: Any) -> bool:
    length = 7
    made = getattr(decoder, _MASK)(None, (1, length), torch.zeros(1, length, 1), 0)
    return isinstance(made, Tensor) and torch.equal(made[0, 0] > -1, torch.ones(length, length).tril().bool())
