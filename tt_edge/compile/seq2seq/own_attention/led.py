"""LED's attention: a token of the source sees those of a window around it.

No token sees all the others, as in ``generate()`` without a ``global_attention_mask``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.seq2seq.own_attention.operator import all_equal, attend, dtype_of


def matches(module: nn.Module) -> bool:
    """Whether ``module`` looks like one."""
    return type(module).__name__ == "LEDEncoderSelfAttention"


def semantic(module: Any) -> Callable[..., tuple[Tensor]]:
    """The module's ``forward``, with attention as an operator."""
    side = int(module.one_sided_attn_window_size)

    def heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, module.num_heads, module.head_dim).transpose(1, 2)

    def forward(hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        query, key, value = (heads(part(hidden_states)) for part in (module.query, module.key, module.value))
        seen = Visibility(causal=False, window=side + 1, ahead=side)
        out = attend(module, query, key, value, module.head_dim**-0.5, seen)
        return (out.transpose(1, 2).flatten(2),)

    return forward


def is_equal(module: Any) -> bool:
    """Whether ``semantic`` gives what the module does, on random numbers: four windows."""
    length = 4 * int(module.one_sided_attn_window_size)
    states = torch.randn(2, length, module.query.in_features, generator=torch.Generator().manual_seed(0))
    states = states.to(dtype_of(module))
    nothing = torch.zeros(2, length, dtype=torch.bool)
    given = {"is_index_masked": nothing, "is_index_global_attn": nothing, "is_global_attn": False}
    return all_equal(
        lambda: [(module(states, attention_mask=states.new_zeros(2, length), **given)[0], semantic(module)(states)[0])]
    )


class _NothingHidden:
    """Stands for the masks that LED's encoder computes of one of ones: no token is hidden, and none sees all."""

    def _same(self, *_: Any, **__: Any) -> _NothingHidden:
        return self

    __getitem__ = __lt__ = __gt__ = flatten = any = _same

    def item(self) -> bool:
        return False


@contextmanager
def without_blocks(model: nn.Module) -> Iterator[None]:
    """Within the block, LED's encoder does not lengthen its source to whole windows, and makes no masks."""

    def as_it_is(input_ids: Any, attention_mask: Any, inputs_embeds: Any, pad_token_id: int) -> tuple[Any, ...]:
        return 0, input_ids, attention_mask, inputs_embeds

    with ExitStack() as stack:
        for module in model.modules():
            if type(module).__name__ == "LEDEncoder":
                stack.enter_context(patch.object(module, "_pad_to_window_size", as_it_is))
                modeling = sys.modules[type(module).__module__]
                made = patch.object(modeling, "_prepare_4d_attention_mask_inverted", lambda *_: _NothingHidden())
                stack.enter_context(made)
        yield
