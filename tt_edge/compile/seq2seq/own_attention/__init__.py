"""Modules that compute attention by themselves, not through transformers' attention interface.

While such a model is traced, they emit ``tt_edge::attention``, after both have been compared on random numbers. Each file of this
folder knows modules of one kind: which they are, their ``forward`` with the operator, and whether both are equal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from unittest.mock import patch

from torch import nn
from transformers import PreTrainedModel

from tt_edge.compile.export.semantics import ATTENTION_NAME
from tt_edge.compile.seq2seq.own_attention import bart, bert, big_bird, fsmt, led, merged


class _Kind(Protocol):
    def matches(self, module: nn.Module, /) -> bool:
        """Whether ``module`` looks like one of this kind."""

    def semantic(self, module: Any, /) -> Callable[..., Any]:
        """The module's ``forward``, with attention as an operator."""

    def is_equal(self, module: Any, /) -> bool:
        """Whether ``semantic`` gives what the module does, on random numbers."""


_KINDS: tuple[_Kind, ...] = (bart, bert, fsmt, big_bird, led, merged)


@contextmanager
def emitted_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, such modules of ``model`` emit ``tt_edge::attention``; other modules stay as they are."""
    known: dict[type[nn.Module], bool] = {}
    with ExitStack() as stack:
        stack.enter_context(led.without_blocks(model))
        for module in model.modules():
            kind = next((kind for kind in _KINDS if kind.matches(module)), None)
            if kind is None:
                continue
            if type(module) not in known:
                known[type(module)] = kind.is_equal(copy.deepcopy(module).float())  # not in the noise of fp16
            if known[type(module)]:
                stack.enter_context(patch.object(module, "forward", kind.semantic(module)))
        for owner in model.modules() if any(known.values()) else ():
            if isinstance(
                owner, PreTrainedModel
            ):  # transformers sets it only where it finds its interface in the source
                stack.enter_context(patch.object(owner.config, "_attn_implementation_internal", ATTENTION_NAME))
        yield
