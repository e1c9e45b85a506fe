"""Which keys a query may see, determined from the masks that a model requests from transformers.

PyTorch's attention follows the mask and nothing else; a ``sliding_window`` that a module passes beside it is a hint for
flash kernels. So the mask is what the compiled model must agree with, and any that is neither causal, sliding nor
absent (chunked attention, prefix blocks, packed documents) must be refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from transformers import masking_utils

from tt_edge.errors import UnsupportedModelError

# Positions that a mask is evaluated on: a window that it does not name may be as long as a context.
_FAR = 1 << 17


@dataclass(frozen=True)
class Visibility:
    """A stand-in for a mask: the visible keys. ``window`` counts tokens, including the query's own; 0 is unlimited. One that is not
    causal ends ``ahead`` tokens after the query."""

    causal: bool
    window: int = 0
    ahead: int = 0

    def __getitem__(self, _index: Any) -> Visibility:
        """Models slice a mask to the keys' length; this has no length, so it is returned unchanged."""
        return self

    def _computed(self, *_: Any) -> Any:
        raise UnsupportedModelError(
            "the model adds its own attention mask to scores that it computes by itself, which no backend has"
        )

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __and__ = __rand__ = _computed

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Two masks side by side are one of the keys that they see, side by side (T5Gemma 2)."""
        if func is torch.cat and len(args[0]) == 2 and all(isinstance(each, Visibility) for each in args[0]):
            first, second = args[0]
            if second == Visibility(causal=False):
                return JoinedVisibility(first)
        raise UnsupportedModelError(
            f"the model computes its own attention mask by {func.__name__}, which no backend has"
        )

    def __getattr__(self, name: str) -> Any:
        """Refuse a model that computes with its mask (Doge adds its own to it)."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise UnsupportedModelError(
            f"the model computes its own attention mask (it asks the mask for {name}), which no backend has"
        )


@dataclass(frozen=True)
class JoinedVisibility:
    """The visible keys of a decoder's attention to its answer so far, of which it sees ``first``, and to all of a source."""

    first: Visibility


def _visibility(*, mask_function: Callable[..., Any], local_size: int | None = None, **_: Any) -> Visibility:
    """Called by transformers to make a mask: evaluates ``mask_function`` and identifies its kind.

    ``mask_function(batch, head, query, key)`` broadcasts over tensors of indices; ``local_size`` is the length of a
    window or chunk.
    """
    window = local_size or 0
    try:
        known = [Visibility(True, window), Visibility(True), Visibility(False)]
        found = next((each for each in known if _agrees(each, mask_function, window)), None)
        if found is None:
            around = _around(mask_function)
            found = around if around is not None and _agrees(around, mask_function, around.window) else None
    except Exception:  # it reads other tensors of the model: tokens' types, padding, documents
        found = None
    if found is None:
        length = f" (of {window} tokens)" if window else ""
        raise UnsupportedModelError(
            f"the model's attention mask{length} is neither causal nor a sliding window (chunked attention, prefix or token "
            "blocks), which no backend has"
        )
    return found


def _agrees(visibility: Visibility, mask_function: Callable[..., Any], window: int) -> bool:
    """Whether queries about the edges of ``window``, and far from them, see the same keys."""
    keys = torch.arange(max(2 * window + 64, _FAR))
    edges = [0, 1, 2, 7, 63, window - 1, window, window + 1, 2 * window, 2 * window + 1, len(keys) // 2, len(keys) - 1]
    queries = torch.tensor(sorted({max(0, edge) for edge in edges}))[:, None]
    return torch.equal(_seen(mask_function, queries, keys), _allowed(visibility, queries, keys))


def _seen(mask_function: Callable[..., Any], queries: Tensor, keys: Tensor) -> Tensor:
    seen = mask_function(torch.tensor(0), torch.tensor(0), queries, keys)
    return torch.broadcast_to(torch.as_tensor(seen), (len(queries), len(keys)))


def _around(mask_function: Callable[..., Any]) -> Visibility | None:
    """A window that the mask does not name, from what one token in the middle of many sees."""
    middle = _FAR // 2
    keys = torch.nonzero(_seen(mask_function, torch.tensor([[middle]]), torch.arange(_FAR))[0])
    first, last = int(keys.min()), int(keys.max())
    if first == 0 or last == _FAR - 1:
        return None
    ahead = last - middle
    return Visibility(ahead == 0, middle - first + 1, ahead)


def _allowed(visibility: Visibility, queries: Tensor, keys: Tensor) -> Tensor:
    allowed = torch.ones(len(queries), len(keys), dtype=torch.bool)
    if visibility.causal:
        allowed &= keys <= queries
    if visibility.window:
        allowed &= keys > queries - visibility.window
        if not visibility.causal:
            allowed &= keys <= queries + visibility.ahead
    return allowed


@contextmanager
def visible_masks(name: str) -> Iterator[None]:
    """Within the block, transformers passes ``Visibility`` instead of masks to attention ``name``."""

    def mask(**kwargs: Any) -> Visibility:
        with _disable_current_modes():  # real numbers, not the exporter's fake tensors
            return _visibility(**kwargs)

    own = masking_utils._preprocess_mask_arguments

    def preprocess(*args: Any, **kwargs: Any) -> Any:
        """A mask that is made already is passed on (PaliGemma makes its language model's)."""
        made = next((each for each in (*args, *kwargs.values()) if isinstance(each, Visibility)), None)
        return own(*args, **kwargs) if made is None else (True, made, *[None] * 5)

    with ExitStack() as stack:
        stack.enter_context(patch.object(masking_utils, "_preprocess_mask_arguments", preprocess))
        stack.enter_context(patch.dict(masking_utils.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, {name: mask}))
        # It looks for several documents in one row, in the positions; an engine's row is one sequence.
        stack.enter_context(patch.object(masking_utils, "find_packed_sequence_indices", lambda _positions: None))
        yield
