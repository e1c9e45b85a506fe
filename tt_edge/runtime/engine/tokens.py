"""Tokens of one sequence, or of a batch, with their positions and image indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Given(NamedTuple):
    """Tokens as a caller gives them; ``None``: default positions, no images."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64] | None
    image_indices: NDArray[np.int32] | None


@dataclass(frozen=True, eq=False)
class Tokens:
    """Ids ``[…, S]``, positions ``[axes, …, S]``, and the rows of the feature tables that they use, ``[…, S]``."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    image_indices: NDArray[np.int32]

    @classmethod
    def text(cls, ids: Sequence[int], axes: int) -> Tokens:
        """Text tokens, with positions from 0 on."""
        count = len(ids)
        positions = np.broadcast_to(np.arange(count), (axes, count))
        return cls(np.array(ids, np.int64), positions, np.full(count, -1, np.int32))

    @classmethod
    def padded(cls, rows: Sequence[Tokens], width: int) -> Tokens:
        """Sequences of different lengths as a batch, padded on the right with valid ids and positions."""
        axes, batch = len(rows[0].positions), len(rows)
        out = cls(
            np.zeros((batch, width), np.int64),
            np.zeros((axes, batch, width), np.int64),
            np.full((batch, width), -1, np.int32),
        )
        for index, row in enumerate(rows):
            count = len(row.ids)
            out.ids[index, :count], out.image_indices[index, :count] = row.ids, row.image_indices
            out.positions[:, index, :count] = row.positions
        return out

    def at(self, rows: slice, width: int) -> Tokens:
        """The first ``width`` columns of the slots ``rows`` of a batch."""
        return Tokens(self.ids[rows, :width], self.positions[:, rows, :width], self.image_indices[rows, :width])

    def row(self, row: int, length: int) -> Tokens:
        """The first ``length`` tokens of one slot of a batch."""
        return Tokens(self.ids[row], self.positions[:, row], self.image_indices[row]).first(length)

    def first(self, length: int) -> Tokens:
        return Tokens(self.ids[:length], self.positions[:, :length], self.image_indices[:length])

    def followed_by(self, other: Tokens) -> Tokens:
        pairs = ((getattr(t, name) for t in (self, other)) for name in ("ids", "positions", "image_indices"))
        return Tokens(*(np.concatenate(tuple(pair), axis=-1) for pair in pairs))
