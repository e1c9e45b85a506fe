"""The logits of a token: of the whole vocabulary, or the largest ones, which the network has selected."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Of the whole vocabulary, ``[V]``.
Scores = NDArray[np.float32]


class Scaled(NamedTuple):
    """The largest logits of all rows divided by a temperature, ``[B, width]``, likeliest first.

    ``below``: less the likeliest token's, float32. ``weights``: probabilities times a constant, 1 for the likeliest, and
    ``masses``, their sums up to each; lists of Python's floats, which are faster to use one by one.
    """

    below: NDArray[np.float32]
    weights: list[list[float]]
    masses: list[list[float]]


class TopBatch:
    """The largest logits of the rows of a step, valid until the session's next call.

    ``values`` ``[B, K]`` float32 are in descending order, ``ids`` ``[B, K]`` int32 are their tokens; of equal ones, which TensorRT
    selects and in what order is not defined. ``log_sum_exp`` is of all ``vocab_size`` logits of a row: NaN or infinite where
    one of them is. ``whole(row)`` gives all logits of a row.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        ids: NDArray[np.int32],
        log_sum_exp: Sequence[float],
        vocab_size: int,
        whole: Callable[[int], Scores],
    ) -> None:
        self.values, self.ids, self.log_sum_exp = values, ids, log_sum_exp
        self.vocab_size, self.whole = vocab_size, whole
        self.count = values.shape[1]
        self._scaled: dict[tuple[float, int], Scaled] = {}
        self._first_ids: dict[int, list[list[int]]] = {}

    def rows(self) -> list[TopLogits]:
        return [TopLogits(self, row) for row in range(len(self.values))]

    @cached_property
    def likeliest(self) -> list[int | None]:
        """The likeliest token of each row, ``None`` where others equal it."""
        single = (self.values[:, 1] < self.values[:, 0]).tolist()
        return [token if alone else None for token, alone in zip(self.ids[:, 0].tolist(), single, strict=True)]

    def first_ids(self, width: int) -> list[list[int]]:
        """The first ``width`` tokens of each row; made once."""
        if width not in self._first_ids:
            self._first_ids[width] = self.ids[:, :width].tolist()
        return self._first_ids[width]

    @cached_property
    def totals(self) -> list[float]:
        """The weight of each row's whole vocabulary at temperature 1, where the likeliest token's is 1."""
        bests = (best for best, _ in self.range)
        return [math.exp(min(total - best, 700.0)) for total, best in zip(self.log_sum_exp, bests, strict=True)]

    @cached_property
    def range(self) -> list[tuple[float, float]]:
        """The largest and the smallest of the largest logits of each row."""
        return list(zip(self.values[:, 0].tolist(), self.values[:, -1].tolist(), strict=True))

    def scaled(self, temperature: float, width: int) -> Scaled:
        """The first ``width`` largest logits of all rows at a temperature; computed once for all rows that have it."""
        key = temperature, width
        if key not in self._scaled:
            values = self.values[:, :width]
            if temperature != 1:
                values = values / np.float32(temperature)
            below = values - values[:, :1]
            weights = below.astype(np.float64)
            np.exp(weights, out=weights)
            self._scaled[key] = Scaled(below, weights.tolist(), weights.cumsum(axis=1).tolist())
        return self._scaled[key]


class TopLogits:
    """The largest logits of one row of ``batch``."""

    __slots__ = ("batch", "row")

    def __init__(self, batch: TopBatch, row: int) -> None:
        self.batch, self.row = batch, row

    @property
    def values(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.batch.values[self.row]
        return values

    @property
    def ids(self) -> NDArray[np.int32]:
        ids: NDArray[np.int32] = self.batch.ids[self.row]
        return ids

    @property
    def log_sum_exp(self) -> float:
        return self.batch.log_sum_exp[self.row]

    def whole(self) -> Scores:
        """All logits ``[V]``; copied from the device where they are there."""
        return self.batch.whole(self.row)


#: What a session gives for a row.
RowLogits = Scores | TopLogits
