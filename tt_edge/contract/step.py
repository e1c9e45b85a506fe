"""One run of a decoder, as the session describes it to the inputs' feed functions. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tt_edge.contract.contract import IOContract


class Step(NamedTuple):
    """One run of the network: int64 ids ``[B, S]``, right-padded; each slot's numbers of new and past tokens, ``[B]``.

    ``positions`` int64 ``[axes, B, S]``; ``None``: each token's index in its sequence. ``image_indices`` int32 ``[B, S]`` are
    rows of the feature tables, or say which tiles tokens see (``seen_tiles``); ``None``: there are no images. ``cross_lengths``
    int32 ``[B]`` are lengths of the slots' sources (encoder-decoders). Row 0 is the session's slot ``first_slot``, and the others
    are those after it.
    """

    contract: IOContract
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.integer]
    past: NDArray[np.int32]
    positions: NDArray[np.int64] | None = None
    image_indices: NDArray[np.int32] | None = None
    first_slot: int = 0
    cross_lengths: NDArray[np.int32] | None = None

    @property
    def batch(self) -> int:
        return len(self.input_ids)

    @property
    def width(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def is_plain_prefill(self) -> bool:
        """Whether no slot has a past."""
        return not self.past.any()

    @property
    def is_decode(self) -> bool:
        return self.width == 1 and not self.is_plain_prefill
