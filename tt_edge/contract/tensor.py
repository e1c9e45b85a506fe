"""Shapes of engine inputs and outputs. Torch-free."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from tt_edge.dtypes import DType

#: Symbolic dimensions that most inputs and outputs have. ``tt_edge.contract.inputs`` has the others.
BATCH, SEQUENCE = "batch", "sequence"

Shape = tuple[int, ...]
Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One engine input or output. ``shape`` mixes sizes with names of symbolic dimensions."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def resolve(self, **sizes: int) -> Shape:
        """The concrete shape for given sizes of the symbolic dims, e.g. ``resolve(batch=1, sequence=7)``."""
        return tuple(d if isinstance(d, int) else sizes[d] for d in self.shape)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions, in order."""
        return tuple(d for d in self.shape if isinstance(d, str))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], symbols: Container[str]) -> TensorSpec:
        """Rebuild from JSON; raises ``ValueError`` for a dimension that is neither a size nor one of ``symbols``."""
        shape = tuple(d if isinstance(d, str) and d in symbols else size(d, "dimension") for d in data["shape"])
        return cls(str(data["name"]), DType(data["dtype"]), shape)


def size(value: Any, name: str) -> int:
    """``value`` if it is a size; raises ``ValueError`` naming it for any other, booleans and floats included."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}")
    return value


@dataclass(frozen=True)
class ShapeRange:
    """Minimum, optimum and maximum shape of one input in an optimization profile; of a shape tensor, its values."""

    min: Shape
    opt: Shape
    max: Shape
