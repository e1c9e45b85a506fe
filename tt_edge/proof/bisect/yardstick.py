"""How far a tensor of an engine may be from the reference evaluation, measured and not guessed. Torch-free.

The network is evaluated twice on the same inputs: as it is, rounding wherever its types say so, and in float32. What the two
differ by is the rounding error that half precision brings to each tensor. An engine rounds elsewhere (fused layers round less
often), so it may be that far from the reference once for either side, and twice that to be sure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tt_edge.network.ir import Layer, Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.reference.compare import difference, own_feeds
from tt_edge.proof.bisect.widen import widened, widened_feeds

#: Allowed error as a multiple of the rounding error that the reference itself has.
FACTOR = 4.0
#: Allowed at least, by element type: a few roundings of the last place; in float32, as in the parity check.
_FLOORS = {"float32": 1e-4, "float16": 2e-3, "bfloat16": 1.6e-2}


@dataclass(frozen=True)
class Measured:
    """A tensor's relative L2 error and what is allowed."""

    tensor: str
    error: float
    allowed: float

    @property
    def right(self) -> bool:
        return self.error <= self.allowed


class Yardstick:
    """The reference values of chosen tensors and the error that each may have."""

    def __init__(self, network: Network, feeds: Mapping[str, np.ndarray], tensors: Sequence[str]) -> None:
        wanted = set(tensors)
        self.values: dict[str, np.ndarray] = {}
        self._rounding: dict[str, float] = {}

        def keep(_: Layer, name: str, value: np.ndarray) -> None:
            if name in wanted:
                self.values[name] = value.copy()

        def compare(_: Layer, name: str, value: np.ndarray) -> None:
            if name in wanted:
                own = self.values[name]
                self._rounding[name] = difference(name, own, value).relative_l2 if own.shape == value.shape else 0.0

        ReferenceEvaluator(network, fold_constants=False).run(own_feeds(feeds), observe=keep)
        wide = ReferenceEvaluator(widened(network), fold_constants=False)
        wide.run(widened_feeds(network, feeds), observe=compare)

    def allowed(self, tensor: str) -> float:
        """The largest relative L2 error that is right for ``tensor``."""
        floor = _FLOORS.get(self.values[tensor].dtype.name, 0.0)
        return max(floor, FACTOR * self._rounding.get(tensor, 0.0))

    def measure(self, tensor: str, value: np.ndarray) -> Measured:
        """Compare ``value`` with the reference; a shape or a NaN that differs is an infinite error."""
        expected = self.values[tensor]
        if value.shape != expected.shape:
            return Measured(tensor, float("inf"), self.allowed(tensor))
        found = difference(tensor, value, expected)
        return Measured(tensor, float("inf") if found.mismatched else found.relative_l2, self.allowed(tensor))
