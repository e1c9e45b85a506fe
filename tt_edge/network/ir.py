"""The representation of a captured TensorRT network.

A ``Network`` is a plain list of layers in execution order over named tensors. It holds only the computation that TensorRT
was asked for: no tactics, no profiles (those follow from the engine contract).

Conventions that capture, rebuild and the reference evaluator share:

* ``Layer.kind`` is the name of TensorRT's ``LayerType`` (``"MATRIX_MULTIPLY"``). One exception: an ``IAttention`` is
  two boundary layers in TensorRT and a single ``"ATTENTION"`` layer here.
* ``Layer.inputs`` are tensor names by input index, ``None`` where an optional input is unset.
* ``Layer.attributes`` are the layer's properties under the names of TensorRT's Python bindings. Enum values are
  stored by name (``"SUM"``), dimensions and permutations as lists of ints.
* A ``CONSTANT`` layer's attribute ``weights`` is a key of ``Network.weights``; ``shape`` and the output tensor's dtype
  say how to read it. Layers that share data share the key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np

from tt_edge.dtypes import DType

#: JSON-able attribute value.
Attribute = bool | int | float | str | list[int] | list[float] | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the network. ``shape`` has -1 for dynamic dimensions."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(slots=True)
class Layer:
    """One layer; see the module docstring for the conventions."""

    name: str
    kind: str
    inputs: list[str | None]
    outputs: list[str]
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass(slots=True)
class Network:
    """A captured network: ``inputs`` and ``outputs`` name entries of ``tensors``; ``weights`` maps keys to arrays.

    ``weights`` may be a lazy, memory-mapped mapping; arrays in it are read-only. 4-bit types are stored packed,
    two to a byte, low nibble first, as ``uint8`` arrays of ``ceil(count / 2)`` bytes.
    """

    name: str
    inputs: list[str]
    outputs: list[str]
    tensors: dict[str, Tensor]
    layers: list[Layer]
    weights: Mapping[str, np.ndarray]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def kinds(self) -> Counter[str]:
        """The number of layers of each kind."""
        return Counter(layer.kind for layer in self.layers)

    def constants(self) -> Iterator[tuple[Layer, Tensor]]:
        """The ``CONSTANT`` layers, each with its output tensor."""
        for layer in self.layers:
            if layer.kind == "CONSTANT":
                yield layer, self.tensors[layer.outputs[0]]

    def weight_bytes(self) -> dict[DType, int]:
        """Bytes of weights by element type, each stored weight counted once."""
        seen: MutableMapping[str, tuple[DType, int]] = {}
        for layer, tensor in self.constants():
            count = int(np.prod(tensor.shape, dtype=np.int64))
            seen[str(layer.attributes["weights"])] = (tensor.dtype, tensor.dtype.nbytes(count))
        for layer in self.layers:  # such as a convolution's kernel and bias
            for key in layer.attributes.values():
                if layer.kind != "CONSTANT" and isinstance(key, str) and key in self.weights:
                    array = self.weights[key]
                    seen[key] = (DType.of(array), array.nbytes)
        totals: dict[DType, int] = {}
        for dtype, nbytes in seen.values():
            totals[dtype] = totals.get(dtype, 0) + nbytes
        return totals
