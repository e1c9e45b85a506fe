"""Rewriting a captured network layer by layer. Torch-free."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.network.ir import Attribute, Layer, Network, Tensor


class Editor:
    """Builds a rewritten copy of ``network``: layers are kept or replaced in order, and new tensors can be shared.

    The captured network is not changed. Names of new layers and tensors begin with the name of the layer that they
    replace. New constants are small, and are stored in addition to the captured weights.
    """

    def __init__(self, network: Network) -> None:
        self._own_weights: dict[str, np.ndarray] = {}
        self.tensors = dict(network.tensors)
        self.weights: ChainMap[str, np.ndarray] = ChainMap(self._own_weights, network.weights)  # type: ignore[arg-type]
        self.layers: list[Layer] = []
        self._source = network
        self._shared: dict[object, str] = {}
        self._names = {layer.name for layer in network.layers}

    def network(self) -> Network:
        """The rewritten network."""
        source = self._source
        used = {name for layer in self.layers for name in (*layer.inputs, *layer.outputs) if name}
        used.update(source.inputs, source.outputs)
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        return Network(source.name, list(source.inputs), list(source.outputs), tensors, self.layers, self.weights)

    def keep(self, layer: Layer) -> None:
        """Append a layer unchanged."""
        self.layers.append(layer)

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.tensors[tensor].shape

    def dtype(self, tensor: str) -> DType:
        return self.tensors[tensor].dtype

    def shared(self, key: object, make: Callable[[], str]) -> str:
        """The tensor that ``make`` adds; called only once for each ``key``."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def add(
        self,
        name: str,
        kind: str,
        inputs: Sequence[str | None],
        dtype: DType,
        shape: Sequence[int],
        output: str | None = None,
        /,
        **attributes: Attribute,
    ) -> str:
        """Add a layer with one output and return its tensor: ``output``, an existing tensor, or a new one."""
        name = self._unique(name)
        if output is None:
            output = f"{name}_output"
            self.tensors[output] = Tensor(output, dtype, tuple(shape))
        self.layers.append(Layer(name, kind, list(inputs), [output], attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        """A constant tensor; equal arrays share one."""
        array = np.asarray(array, order="C")  # (ascontiguousarray would give a scalar a dimension)

        def make() -> str:
            unique = self._unique(name)
            self._own_weights[unique] = array.reshape(-1)
            dtype = DType.of(array.dtype)
            return self.add(unique, "CONSTANT", [], dtype, array.shape, weights=unique, shape=list(array.shape))

        return self.shared(("constant", array.dtype.str, array.shape, array.tobytes()), make)

    def elementwise(self, name: str, op: str, a: str, b: str, output: str | None = None) -> str:
        """``op`` of ``a`` and ``b``, which have equal rank and broadcast; comparisons give booleans."""
        dtype = DType.BOOL if op in ("GREATER", "LESS", "EQUAL") else self.dtype(a)
        shape = [max(x, y) if -1 not in (x, y) else -1 for x, y in zip(self.shape(a), self.shape(b), strict=True)]
        return self.add(name, "ELEMENTWISE", [a, b], dtype, shape, output, op=op)

    def shuffle(
        self, name: str, tensor: str, dims: Sequence[int], shape: Sequence[int], output: str | None = None, **more: Any
    ) -> str:
        """A reshape to ``dims`` (0: the input's size, -1: inferred); ``shape`` is the result's shape, -1 where dynamic."""
        attributes = {"reshape_dims": list(dims), "zero_is_placeholder": True, **more}
        return self.add(name, "SHUFFLE", [tensor], self.dtype(tensor), shape, output, **attributes)

    def cast(self, name: str, tensor: str, dtype: DType, output: str | None = None) -> str:
        if self.dtype(tensor) is dtype and output is None:
            return tensor
        return self.add(name, "CAST", [tensor], dtype, self.shape(tensor), output, to_type=TRT_NAMES[dtype])

    def size(self, name: str, tensor: str, axis: int) -> str:
        """The size of a dimension, int64 ``[1]``."""

        def sizes() -> str:
            return self.add(f"{name}.shape", "SHAPE", [tensor], DType.INT64, [len(self.shape(tensor))])

        def one() -> str:
            whole = self.shared(("shape", tensor), sizes)
            attributes: dict[str, Attribute] = {"start": [axis], "shape": [1], "stride": [1], "mode": "STRICT_BOUNDS"}
            return self.add(f"{name}.size{axis}", "SLICE", [whole], DType.INT64, [1], **attributes)

        return self.shared(("size", tensor, axis), one)

    def counted(self, name: str, length: str) -> str:
        """``0, 1, … length - 1``, int32 ``[length]``; ``length`` is int64 ``[1]``."""

        def make() -> str:
            zero = self.constant(f"{name}.zero", np.zeros((), np.int32))
            one = self.constant(f"{name}.one", np.ones(1, np.int32))
            kind: dict[str, Attribute] = {"operation": "LINSPACE", "to_type": "INT32"}
            return self.add(f"{name}.count", "FILL", [length, zero, one], DType.INT32, [-1], **kind)

        return self.shared(("count", length), make)

    def slice_last(self, name: str, tensor: str, start: int, count: int, stride: int = 1) -> str:
        """``tensor[..., start : … : stride]``, ``count`` elements of the last axis; other axes may be dynamic."""
        rank = len(self.shape(tensor))
        shape = (*self.shape(tensor)[:-1], count)
        axes = [rank - 1]
        attributes: dict[str, Attribute] = {
            "start": [start],
            "shape": [count],
            "stride": [stride],
            "axes": axes,
            "mode": "STRICT_BOUNDS",
        }
        return self.add(name, "SLICE", [tensor], self.dtype(tensor), shape, **attributes)

    def joined(self, name: str, parts: Sequence[str], output: str | None = None) -> str:
        """Concatenation along the last axis."""
        shape = self.shape(parts[0])
        width = sum(self.shape(part)[-1] for part in parts)
        return self.add(
            name, "CONCATENATION", parts, self.dtype(parts[0]), (*shape[:-1], width), output, axis=len(shape) - 1
        )

    def _unique(self, name: str) -> str:
        result, number = name, 1
        while result in self._names or result in self.tensors or f"{result}_output" in self.tensors:
            number += 1
            result = f"{name} #{number}"
        self._names.add(result)
        return result


#: Names of TensorRT's ``DataType`` members.
TRT_NAMES: dict[DType, str] = {
    DType.FLOAT32: "FLOAT",
    DType.FLOAT16: "HALF",
    DType.BFLOAT16: "BF16",
    DType.INT64: "INT64",
    DType.INT32: "INT32",
    DType.BOOL: "BOOL",
}
