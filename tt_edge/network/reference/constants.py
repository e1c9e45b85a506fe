"""Values known before the first run: constants, values folded from them, and their float32 copies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.network.reference.numerics import widening

#: Arrays up to this size are kept without counting against the budget.
SMALL_BYTES = 64 << 10


@dataclass(slots=True)
class ConstantStore:
    """Constant tensors by name, and a byte budget for arrays that only make later runs faster.

    ``origins`` names the data behind a tensor, so that tensors which share a weight share its float32 copy.
    ``claims`` holds the inputs of the layer being bound that use a float32 copy and no longer need the original.
    """

    budget: int
    values: dict[str, np.ndarray] = field(default_factory=dict)
    origins: dict[str, object] = field(default_factory=dict)
    claims: set[int] = field(default_factory=set)
    used: int = 0
    _copies: dict[object, np.ndarray] = field(default_factory=dict)

    def reserve(self, nbytes: int) -> bool:
        """Take ``nbytes`` from the budget; if there is not enough, take nothing and return False."""
        if nbytes <= SMALL_BYTES:
            return True
        if self.used + nbytes > self.budget:
            return False
        self.used += nbytes
        return True

    def release(self, nbytes: int) -> None:
        """Return bytes taken by ``reserve`` to the budget."""
        if nbytes > SMALL_BYTES:
            self.used -= nbytes

    def take_claims(self) -> frozenset[int]:
        """The claims of the layer just bound, cleared for the next."""
        claims = frozenset(self.claims)
        self.claims.clear()
        return claims

    def float32(self, name: str) -> np.ndarray | None:
        """Constant ``name`` as float32, or ``None`` if it is not constant or its copy does not fit the budget."""
        value = self.values.get(name)
        if value is None or value.dtype == np.float32:
            return value
        key = (self.origins.get(name, name), value.shape)
        if key not in self._copies:
            if not self.reserve(value.size * 4):
                return None
            self._copies[key] = widening(DType.of(value.dtype))(value)
        return self._copies[key]
