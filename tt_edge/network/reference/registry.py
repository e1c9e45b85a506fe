"""The kernels of the reference evaluator, by layer kind, and ``BoundLayer``, a kernel's view of its layer.

A kernel is registered for a layer kind with ``@kernel("KIND")``. It is called once per layer when the evaluator is
built, with a ``BoundLayer``; there it reads attributes, types and constant inputs, and returns the function that
computes the layer. That function takes the layer's input arrays by position (``None`` for an unset input) and returns
the output array, or a tuple of them. Work done in the kernel is paid once; work in the function, once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.network.ir import Layer, Tensor
from tt_edge.network.reference.numerics import Converter, rounding, stored_weight, widening

if TYPE_CHECKING:
    from tt_edge.network.reference.constants import ConstantStore

Compute = Callable[..., "np.ndarray | tuple[np.ndarray, ...]"]
Kernel = Callable[["BoundLayer"], Compute]

KERNELS: dict[str, Kernel] = {}

_T = TypeVar("_T")


def kernel(kind: str) -> Callable[[Kernel], Kernel]:
    """Register the decorated function as the kernel of layers of ``kind``."""

    def register(function: Kernel) -> Kernel:
        KERNELS[kind] = function
        return function

    return register


def bits(mask: int) -> tuple[int, ...]:
    """The axes of a TensorRT axis bitmask, ascending: bit i stands for axis i."""
    return tuple(axis for axis in range(mask.bit_length()) if mask >> axis & 1)


@dataclass(slots=True)
class BoundLayer:
    """A layer with its tensors and those of its inputs that are constants."""

    layer: Layer
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    store: ConstantStore
    weights: Mapping[str, np.ndarray]

    def input(self, index: int) -> Tensor:
        """Input ``index``, which this kind of layer must have."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            raise UnsupportedModelError(f"{self} lacks its input {index}; capture the network again")
        return tensor

    def has_input(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    @property
    def dtype(self) -> DType:
        """Element type of the first output."""
        return self.outputs[0].dtype

    # Attributes

    def attribute(self, name: str) -> Any:
        """Attribute ``name``; raises ``UnsupportedModelError`` when the layer lacks it."""
        if name not in self.layer.attributes:
            raise UnsupportedModelError(f"{self} has no attribute {name!r}; capture the network again")
        return self.layer.attributes[name]

    def integer(self, name: str, default: int) -> int:
        value = self.layer.attributes.get(name)
        return default if value is None else int(value)  # type: ignore[arg-type]

    def number(self, name: str, default: float) -> float:
        value = self.layer.attributes.get(name)
        return default if value is None else float(value)  # type: ignore[arg-type]

    def flag(self, name: str, default: bool) -> bool:
        value = self.layer.attributes.get(name)
        return default if value is None else bool(value)

    def dims(self, name: str) -> tuple[int, ...] | None:
        """A list-valued attribute, ``None`` when unset."""
        value = self.layer.attributes.get(name)
        return None if value is None else tuple(int(v) for v in value)  # type: ignore[union-attr]

    def axes(self, name: str = "axes") -> tuple[int, ...]:
        """The axes of a bitmask attribute."""
        return bits(int(self.attribute(name)))

    def choose(self, name: str, options: dict[str, _T], default: str | None = None) -> _T:
        """The entry of ``options`` that the enum attribute ``name`` selects."""
        value = str(self.attribute(name) if default is None else self.layer.attributes.get(name) or default)
        if value not in options:
            raise UnsupportedModelError(
                f"{self} has {name} {value}, which the reference evaluator lacks (it has {', '.join(options)}); "
                "run an engine instead"
            )
        return options[value]

    # Constants and number formats

    def weight(self, key: str, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        """The stored weight ``key``, for layers whose weights are attributes and not inputs."""
        if key not in self.weights:
            raise BundleError(f"{self} lacks its weight {key!r}; write the network again")
        return stored_weight(key, self.weights[key], dtype, shape)

    def constant(self, index: int) -> np.ndarray | None:
        """The value of input ``index`` if it depends only on constants, else ``None``."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        return None if tensor is None else self.store.values.get(tensor.name)

    def constant_float32(self, index: int) -> np.ndarray | None:
        """A float32 copy of constant input ``index``, shared between layers.

        ``None`` if the input is not constant or the copy would exceed the evaluator's byte budget. On success the
        layer's function no longer receives that input: it gets ``None`` in its place.
        """
        value = self.store.float32(self.input(index).name)
        if value is not None:
            self.store.claims.add(index)
        return value

    def reader(self, index: int) -> Converter:
        """The function that gives input ``index`` as float32; converted once if the input is constant."""
        value = self.constant_float32(index)
        if value is None:
            return widening(self.input(index).dtype)

        def read(_: np.ndarray) -> np.ndarray:
            return value

        return read

    def writer(self, index: int = 0) -> Converter:
        """The function that rounds float32 results to the type of output ``index``."""
        return rounding(self.outputs[index].dtype)

    def __str__(self) -> str:
        return f"layer {self.layer.name!r} ({self.layer.kind})"
