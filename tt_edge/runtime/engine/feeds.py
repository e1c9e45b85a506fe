"""What a compiled decoder is fed in a step, by the name of its input. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import END, IMAGE_INDICES, START, EngineContract
from tt_edge.plugins.edgellm.contracts import CONTEXT_PHASE, GENERATION_PHASE

Feeds = dict[str, np.ndarray]


class Step(NamedTuple):
    """One run of the network: int64 ids ``[B, S]``, right-padded; each row's new and past tokens, ``[B]``.

    ``positions`` int64 ``[axes, B, S]`` are the tokens' places where there are none; ``image_indices`` int32 ``[B, S]``
    are rows of the feature tables, none where there are no such.
    """

    contract: EngineContract
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.integer]
    past: NDArray[np.int32]
    positions: NDArray[np.int64] | None = None
    image_indices: NDArray[np.int32] | None = None

    @property
    def batch(self) -> int:
        return len(self.input_ids)

    @property
    def width(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def is_plain_prefill(self) -> bool:
        """Whether no row has a past."""
        return not self.past.any()

    @property
    def is_decode(self) -> bool:
        return self.width == 1 and not self.is_plain_prefill


def feeds(step: Step) -> Feeds:
    """An array for every input of the contract other than the KV cache."""
    return {
        spec.name: np.ascontiguousarray(FEEDS[spec.name](step), spec.dtype.numpy)
        for spec in step.contract.inputs
        if spec.name in FEEDS
    }


def _page_table(step: Step) -> np.ndarray:
    """Every row has the pages that follow on those of the row before; V's pages are numbered on from K's."""
    pages = step.contract.input("kv_page_table").shape[2]
    assert isinstance(pages, int)
    numbers = np.arange(step.batch * pages).reshape(step.batch, 1, pages)
    return np.concatenate([numbers, numbers + step.contract.max_batch * pages], axis=1)


def _positions(step: Step) -> np.ndarray:
    axes = step.contract.position_axes
    if step.positions is not None:
        return step.positions if axes > 1 else step.positions[0]
    places = step.past[:, None] + np.arange(step.width)
    return np.broadcast_to(places, (axes, *places.shape)) if axes > 1 else places


def _image_indices(step: Step) -> np.ndarray:
    return np.full(step.input_ids.shape, -1) if step.image_indices is None else step.image_indices


#: By input name. From ``context_lengths`` on they are the attention plugin's: ``plugins/edgellm/contracts.py``.
FEEDS: dict[str, Callable[[Step], np.ndarray]] = {
    "input_ids": lambda s: s.input_ids,
    "position_ids": _positions,
    IMAGE_INDICES: _image_indices,
    "write_indices": lambda s: s.past,
    "last_token_indices": lambda s: np.maximum(s.lengths - 1, 0),
    START: lambda s: s.past[:1],  # the same in every row
    END: lambda s: s.past[:1] + s.width,
    "context_lengths": lambda s: s.past + 1 if s.is_decode else np.maximum(s.lengths, 1),
    "kvcache_start_index": lambda s: s.past[:0] if s.is_plain_prefill else s.past,
    "kv_page_table": _page_table,
    "query_lengths": lambda s: np.full(s.batch, s.width),  # padding counts: nothing sees it, and it is overwritten
    "past_lengths": lambda s: s.past,
    "query_start_offsets": lambda s: np.arange(s.batch + 1) * s.width,
    "attention_sequence_lengths": lambda s: s.past + s.width,
    "execution_phase_marker": lambda s: np.zeros(GENERATION_PHASE if s.is_decode else CONTEXT_PHASE),
    "context_sequence_count_carrier": lambda s: np.zeros(0 if s.is_decode else s.batch),
}
