"""The reference evaluator: runs a captured network layer by layer in NumPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_edge.errors import BundleError, InvalidInputError, TTEdgeError, UnsupportedModelError, one_line
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.network.reference import device
from tt_edge.network.reference.constants import ConstantStore
from tt_edge.network.reference.numerics import stored, stored_weight
from tt_edge.network.reference.registry import KERNELS, BoundLayer, Compute

#: Called with (layer, tensor name, array) for each layer output. The array is valid during the call only.
Observer = Callable[[Layer, str, np.ndarray], None]

# What NumPy raises for shapes and values that do not fit.
_COMPUTING = (TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError, MemoryError)

# Layers whose output may be a view of their input, which a network output must not be.
_VIEWS = frozenset({"IDENTITY", "CAST", "SHUFFLE", "SLICE", "SQUEEZE", "UNSQUEEZE"})


@dataclass(slots=True)
class _Step:
    """One layer, ready to run. Slots index the evaluator's list of values; slot 0 always holds ``None``."""

    layer: Layer
    compute: Compute
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    free: tuple[int, ...] = ()


class ReferenceEvaluator:
    """Evaluates ``network`` in NumPy with TensorRT's semantics: the reference of parity checks, and a runtime without a GPU.

    Networks are strongly typed: elementwise layers compute in their operand type; float16 and bfloat16 products,
    reductions, softmax, normalization and attention compute in float32 and round once, at the layer's output.

    Layers that depend only on constants are computed here, once. ``constant_bytes`` bounds the memory for that and
    for float32 copies of low-precision weights; what does not fit is recomputed in every run, which is slower.
    With ``arrays``, CuPy's module, the model's numbers are on a GPU (``device.py``); the budget is then three quarters of its free
    memory. ``fold_constants=False`` computes everything but the constants themselves in every run, where ``observe`` sees it.

    Raises ``UnsupportedModelError`` for a layer whose kind or attribute has no kernel, and ``BundleError`` for a weight
    whose size does not match its constant.
    """

    def __init__(
        self, network: Network, *, constant_bytes: int | None = None, fold_constants: bool = True, arrays: Any = np
    ) -> None:
        self.network, self.arrays = network, arrays
        self._on_device = arrays is not np
        if self._on_device:
            device.check(network)
        if constant_bytes is None:
            constant_bytes = device.free_memory(arrays) * 3 // 4 if self._on_device else 4 << 30
        self._slots: dict[str, int] = {name: slot for slot, name in enumerate(network.inputs, 1)}
        self._store = ConstantStore(constant_bytes)
        self._steps: list[_Step] = []
        self._readers = Counter(name for layer in network.layers for name in layer.inputs)
        self._readers.update(network.outputs)
        with np.errstate(all="ignore"):
            for layer in network.layers:
                try:
                    self._add(layer, fold_constants)
                except _COMPUTING as error:
                    raise UnsupportedModelError(
                        f"layer {layer.name!r} ({layer.kind}) cannot be evaluated ({one_line(error)}); compile the model again"
                    ) from error
        for name in network.outputs:
            if name not in self._slots:
                raise UnsupportedModelError(
                    f"network output {name!r} is computed by no layer; capture the network again"
                )
        self._plan_memory()

    def _add(self, layer: Layer, fold: bool) -> None:
        """Bind ``layer`` to its kernel; compute it now if its inputs are constants, else make it a step."""
        values = self._store.values
        if layer.kind == "CONSTANT":
            self._add_constant(layer)
            return
        if layer.kind not in KERNELS:
            raise UnsupportedModelError(
                f"layer {layer.name!r} is a {layer.kind}, which the reference evaluator lacks; run an engine instead"
            )
        for name in layer.inputs:
            if name is not None and name not in self._slots:
                raise UnsupportedModelError(
                    f"layer {layer.name!r} reads {name!r}, which no earlier layer computes; capture the network again"
                )
        if fold and all(name is None or name in values for name in layer.inputs) and self._reserve(layer):
            # Bound to an empty store: conversions for this single evaluation need not be kept.
            compute = self._kernel(layer, ConstantStore(0))
            result = compute(*[None if name is None else values[name] for name in layer.inputs])
            for name, value in zip(layer.outputs, _as_tuple(result), strict=True):
                self._add_value(name, stored(self._array(value), self.network.tensors[name].dtype))
            used = frozenset(range(len(layer.inputs)))
        else:
            compute = self._kernel(layer, self._store)
            used = self._store.take_claims()
            inputs = tuple(
                0 if name is None or index in used else self._slots[name] for index, name in enumerate(layer.inputs)
            )
            outputs = tuple(self._slots.setdefault(name, len(self._slots) + 1) for name in layer.outputs)
            self._steps.append(_Step(layer, compute, inputs, outputs))
        for index in used:
            self._forget(layer.inputs[index])

    def _kernel(self, layer: Layer, store: ConstantStore) -> Compute:
        compute = KERNELS[layer.kind](self._bind(layer, store))
        return device.on_device(compute, layer, self.network, self.arrays) if self._on_device else compute

    def _array(self, value: Any) -> Any:
        """``value``, which may be a scalar of NumPy's, as an array."""
        return value if isinstance(value, (np.ndarray, self.arrays.ndarray)) else np.asarray(value)

    def _bind(self, layer: Layer, store: ConstantStore) -> BoundLayer:
        tensors = self.network.tensors
        inputs = tuple(None if name is None else tensors[name] for name in layer.inputs)
        outputs = tuple(tensors[name] for name in layer.outputs)
        return BoundLayer(layer, inputs, outputs, store, self.network.weights)

    def _reserve(self, layer: Layer) -> bool:
        """Take the memory of a folded layer's outputs from the budget; shapes with -1 (shape arithmetic) are small."""
        return self._store.reserve(sum(_nbytes(self.network.tensors[name]) for name in layer.outputs))

    def _add_constant(self, layer: Layer) -> None:
        tensor = self.network.tensors[layer.outputs[0]]
        key = str(layer.attributes.get("weights"))
        if key not in self.network.weights:
            raise BundleError(f"constant {layer.name!r} lacks its weight {key!r}; write the network again")
        self._add_value(tensor.name, stored_weight(key, self.network.weights[key], tensor.dtype, tensor.shape))
        self._store.origins[tensor.name] = ("weight", key)

    def _add_value(self, name: str, value: Any) -> None:
        if self._on_device:
            value = device.placed(value, self.network.tensors[name].dtype, self.arrays)
        if isinstance(value, np.ndarray):
            value = np.asarray(value).view()  # a plain array, also of a memory map
            value.flags.writeable = False
        self._store.values[name] = value
        self._slots[name] = len(self._slots) + 1

    def _forget(self, name: str | None) -> None:
        """Note that one reader of constant ``name`` no longer needs it, and drop it after the last one."""
        if name is None:
            return
        self._readers[name] -= 1
        if not self._readers[name]:
            del self._store.values[name]
            if name not in self._store.origins:
                self._store.release(_nbytes(self.network.tensors[name]))

    def _plan_memory(self) -> None:
        """Decide after which step each value is dropped, and which constants every run starts with."""
        last: dict[int, int] = {}
        for position, step in enumerate(self._steps):
            for slot in (*step.inputs, *step.outputs):
                last[slot] = position
        self._initial: list[np.ndarray | None] = [None] * (len(self._slots) + 1)
        for name, value in self._store.values.items():
            self._initial[self._slots[name]] = value
        outputs = {self._slots[name] for name in self.network.outputs}
        for slot, position in last.items():
            if slot and slot not in outputs and self._initial[slot] is None:
                self._steps[position].free += (slot,)
        producers = {name: layer.kind for layer in self.network.layers for name in layer.outputs}
        self._outputs = [
            (name, self._slots[name], producers.get(name) in _VIEWS or name in self._store.values)
            for name in self.network.outputs
        ]
        self._store.values.clear()

    def run(self, feeds: Mapping[str, np.ndarray], *, observe: Observer | None = None) -> dict[str, np.ndarray]:
        """Compute the network's outputs for ``feeds``, which hold an array for every network input.

        A KV cache input is updated in place, so it must be writable; the corresponding output is the same array.
        ``observe`` is called with every output of every layer that runs, in execution order; layers folded when the
        evaluator was built do not run. Raises ``InvalidInputError`` for feeds that do not fit the network's inputs.
        """
        values = self._initial.copy()
        for tensor in self._inputs():
            values[self._slots[tensor.name]] = self._fed(tensor, feeds)
        if len(feeds) != len(self.network.inputs):
            unknown = next(name for name in feeds if name not in self.network.inputs)
            raise InvalidInputError(
                f"{unknown!r} is not an input of the network; it has {', '.join(self.network.inputs)}"
            )
        with np.errstate(all="ignore"):
            for step in self._steps:
                try:
                    result = step.compute(*[values[slot] for slot in step.inputs])
                except TTEdgeError:
                    raise
                except _COMPUTING as error:
                    raise _failure(step, values, error) from error
                if type(result) is tuple:
                    for slot, value in zip(step.outputs, result, strict=True):
                        values[slot] = self._array(value)
                else:
                    values[step.outputs[0]] = result if type(result) is np.ndarray else self._array(result)
                if observe is not None:
                    for name, slot in zip(step.layer.outputs, step.outputs, strict=True):
                        seen = stored(values[slot], self.network.tensors[name].dtype)  # type: ignore[arg-type]
                        observe(step.layer, name, device.to_host(seen))
                for slot in step.free:
                    values[slot] = None
        outputs = {name: self._output(name, values[slot], copied) for name, slot, copied in self._outputs}  # type: ignore[arg-type]
        if self._on_device:  # a cache that was fed stays where it is
            fed = {id(array) for array in feeds.values()}
            outputs = {name: out if id(out) in fed else device.to_host(out) for name, out in outputs.items()}
        return outputs

    def _fed(self, tensor: Tensor, feeds: Mapping[str, np.ndarray]) -> Any:
        value = _checked(tensor, feeds, self.arrays)
        return device.placed(value, tensor.dtype, self.arrays) if self._on_device else value

    def _output(self, name: str, value: np.ndarray, copied: bool) -> np.ndarray:
        out = stored(value, self.network.tensors[name].dtype)
        return out.copy() if copied and out is value else out

    def _inputs(self) -> list[Tensor]:
        return [self.network.tensors[name] for name in self.network.inputs]


def _nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor as a NumPy array, with one byte per 4-bit element; dynamic dimensions count as 1."""
    return int(np.prod([max(size, 1) for size in tensor.shape], dtype=np.int64)) * tensor.dtype.numpy.itemsize


def _as_tuple(result: np.ndarray | tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    return result if isinstance(result, tuple) else (result,)


def _checked(tensor: Tensor, feeds: Mapping[str, np.ndarray], arrays: Any) -> np.ndarray:
    """The feed for input ``tensor``, of its type, rank and static dimensions."""
    value = feeds.get(tensor.name)
    if value is None:
        raise InvalidInputError(
            f"input {tensor.name!r} is missing; pass a {tensor.dtype.value} array of shape {tensor.shape}"
        )
    if not isinstance(value, (np.ndarray, arrays.ndarray)) or value.dtype != tensor.dtype.numpy:
        kind = value.dtype if isinstance(value, (np.ndarray, arrays.ndarray)) else type(value).__name__
        raise InvalidInputError(f"input {tensor.name!r} is {kind}; convert it to a NumPy array of {tensor.dtype.value}")
    if len(value.shape) != len(tensor.shape) or any(
        want not in (-1, have) for want, have in zip(tensor.shape, value.shape, strict=True)
    ):
        raise InvalidInputError(
            f"input {tensor.name!r} has shape {value.shape}; the network needs {tensor.shape} (-1: any)"
        )
    return value


def _failure(step: _Step, values: list[np.ndarray | None], error: Exception) -> InvalidInputError:
    shapes = ", ".join("none" if (v := values[slot]) is None else str(v.shape) for slot in step.inputs)
    return InvalidInputError(
        f"layer {step.layer.name!r} ({step.layer.kind}) cannot be computed for inputs of shape {shapes}: {one_line(error)}; "
        "check the shapes of the network's inputs"
    )
