"""Dropping image tokens in a vision network: the tokens of each frame or tile that differ most from its mean are kept.

The distance of a feature from the mean of its image says how much it adds to what the other tokens tell. It needs no attention
weights, which fused attention does not return, and is the same for every kind of tower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tt_edge.compile.vision.tower import Tower
from tt_edge.contract import KEPT_ROWS, PRUNING_PLAN, VisionGeometry

#: Rows that are returned in the traced example: a number that no model has as a size.
_ROWS = 11


class PrunedTower(nn.Module):
    """``tower``, of whose feature rows only those of the kept tokens are returned, in the order of their places."""

    def __init__(self, tower: Tower, tokens_a_unit: int = 1) -> None:
        super().__init__()
        self.tower, self._tokens = tower, tokens_a_unit

    def forward(self, pruning_plan: Tensor, kept_rows: Tensor, **inputs: Tensor) -> tuple[Tensor, ...]:
        """``pruning_plan`` int32 ``[units, tokens, 4]``, ``kept_rows`` int32 ``[R]``, and the tower's ``inputs``.

        Returns the feature tables ``[R, hidden]``, and the places of the kept tokens, int32 ``[R]``.
        """
        tables = self.tower(**inputs)
        # Whole numbers in fp32 are exact up to 2^24, and every TensorRT compares and sums them.
        group, place, count, row = pruning_plan.flatten(0, 1).float().unbind(1)
        score = distances(tables[0], group)
        same = group[:, None] == group[None, :]
        earlier = place[None, :] < place[:, None]
        tie = torch.logical_and(score[None, :] == score[:, None], earlier)
        ahead = torch.logical_or(score[None, :] > score[:, None], tie)
        kept = torch.logical_and(same, ahead).float().sum(1) < count
        number = torch.logical_and(kept[None, :], earlier).float().sum(1)  # of kept tokens before each
        at_row = number[None, :] == kept_rows.float()[:, None]
        chosen = torch.logical_and(kept[None, :], at_row).float()  # [R, N], one in each row
        index = (chosen * row[None, :]).sum(1).int()
        places = (chosen * place[None, :]).sum(1).int()
        return (*(functional.embedding(index, table) for table in tables), places)

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tower's inputs to trace with, and those that say which tokens are kept."""
        plan = torch.zeros(units, self._tokens, 4, dtype=torch.int32)
        kept = {PRUNING_PLAN: plan, KEPT_ROWS: torch.arange(_ROWS, dtype=torch.int32)}
        return self.tower.example(units, dtype) | kept

    @contextmanager
    def traceable(self) -> Iterator[None]:
        with self.tower.traceable():
            yield


def distances(features: Tensor, group: Tensor) -> Tensor:
    """The squared distance of each of the ``features`` ``[N, hidden]`` from the mean of its ``group`` ``[N]``, fp32 ``[N]``.

    Group -1 is padding, whose features may be anything.
    """
    valid = group >= 0
    numbers = torch.where(valid[:, None], features.float(), torch.zeros((), dtype=torch.float32))
    same = (group[:, None] == group[None, :]).float()
    means = torch.mm(same, numbers) / same.sum(1, keepdim=True)
    apart = numbers - means
    return (apart * apart).sum(1)


def pruned(tower: Tower, geometry: VisionGeometry, keep: float) -> tuple[Tower | PrunedTower, VisionGeometry]:
    """``tower`` and its ``geometry`` where ``keep`` of the image tokens are returned; as they are where all are."""
    return (
        (tower, geometry) if keep == 1 else (PrunedTower(tower, geometry.tokens_a_unit), replace(geometry, keep=keep))
    )
