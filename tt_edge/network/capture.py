"""Capturing an ``INetworkDefinition``: every layer is read into our own representation, without copying weights.

Torch-free, although torch_tensorrt usually made the network. Anything that cannot be represented is an error; nothing is
dropped.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import CaptureError
from tt_edge.network.ir import Attribute, Layer, Network, Tensor
from tt_edge.network.layers import ATTENTION, ATTENTION_INPUTS, SPECS
from tt_edge.network.plugins import RecordedPlugin
from tt_edge.tensorrt_api import TensorRT

#: TensorRT's element types by the name of the bindings' enum member.
DTYPES: dict[str, DType] = {
    "FLOAT": DType.FLOAT32,
    "HALF": DType.FLOAT16,
    "BF16": DType.BFLOAT16,
    "FP8": DType.FP8,
    "FP4": DType.FP4,
    "INT64": DType.INT64,
    "INT32": DType.INT32,
    "INT8": DType.INT8,
    "INT4": DType.INT4,
    "UINT8": DType.UINT8,
    "BOOL": DType.BOOL,
}

# Weights up to this size are deduplicated by content: converters make a new copy of each small constant.
_COMPARE_BELOW = 64 * 1024


def dtype_of(trt_dtype: Any) -> DType:
    """The element type of a TensorRT ``DataType``."""
    try:
        return DTYPES[trt_dtype.name]
    except KeyError:
        raise CaptureError(f"element type {trt_dtype.name} cannot be captured (known: {', '.join(DTYPES)})") from None


def capture(
    tensorrt: TensorRT, network: Any, name: str, plugins: Sequence[RecordedPlugin] = (), owner: object = None
) -> Network:
    """Read ``network`` (an ``INetworkDefinition``) into a ``Network``, with the plugin layers recorded separately.

    Weights are views of the memory that the network points to. They keep ``owner``, to which that memory belongs, alive; without
    one, the memory must outlive the result. Raises ``CaptureError`` for a layer or element type that has no captured form.
    """
    return _Capture(tensorrt.module, network, name, plugins, owner).run()


class _Capture:
    def __init__(self, trt: Any, network: Any, name: str, plugins: Sequence[RecordedPlugin], owner: object) -> None:
        self.trt, self.network, self.name, self.owner = trt, network, name, owner
        self.plugins = {str(stand_in.name): plugin for plugin in plugins for stand_in in plugin.stand_ins}
        self.tensors: dict[str, Tensor] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.keys: dict[object, str] = {}
        self.attention: dict[str, Layer] = {}
        self.layer_names: set[str] = set()

    def run(self) -> Network:
        tensors = [self.network.get_input(i) for i in range(self.network.num_inputs)]
        inputs = [self.tensor(tensor) for tensor in tensors if tensor.name not in self.plugins]
        layers = [
            captured
            for i in range(self.network.num_layers)
            if (captured := self.layer(self.network.get_layer(i))) is not None
        ]
        outputs = [self.tensor(self.network.get_output(i)) for i in range(self.network.num_outputs)]
        return Network(self.name, inputs, outputs, self.tensors, sort_layers(layers, inputs), self.weights)

    def tensor(self, tensor: Any) -> str:
        """Record a tensor, and return its name (unique in a TensorRT network)."""
        name = str(tensor.name)
        if name not in self.tensors:
            self.tensors[name] = Tensor(name, dtype_of(tensor.dtype), tuple(int(d) for d in tensor.shape))
        return name

    def inputs(self, layer: Any) -> list[str | None]:
        tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
        return [None if t is None else self.tensor(t) for t in tensors]

    def outputs(self, layer: Any) -> list[str]:
        return [self.tensor(layer.get_output(i)) for i in range(layer.num_outputs)]

    def unique(self, name: str) -> str:
        """``name``, with a number appended if another layer has it: TensorRT allows equal names."""
        result, number = name, 1
        while result in self.layer_names:
            number += 1
            result = f"{name} #{number}"
        self.layer_names.add(result)
        return result

    def layer(self, layer: Any) -> Layer | None:
        kind, name = layer.type.name, str(layer.name)
        if kind == "IDENTITY" and (plugin := self.plugins.get(str(layer.get_input(0).name))) is not None:
            return self.plugin(plugin) if layer.get_input(0).name == plugin.stand_ins[0].name else None
        if kind == "ATTENTION_INPUT":
            self.begin_attention(layer)
            return None
        if kind == "ATTENTION_OUTPUT":
            return self.end_attention(layer)
        if kind == "CONSTANT":
            return self.constant(layer)
        spec = SPECS.get(kind)
        if spec is None:
            raise CaptureError(f"layer {name!r} is a {kind}, which cannot be captured; please report the model type")
        inputs, outputs = self.inputs(layer), self.outputs(layer)
        layer.__class__ = getattr(self.trt, spec.binding)  # the bindings' way to downcast
        present = {index for index, tensor in enumerate(inputs) if tensor is not None}
        attributes = {p.name: p.read(self.trt, layer) for p in spec.properties if p.replaced_by not in present}
        if kind == "SHUFFLE":
            _trim_permutations(attributes, inputs, outputs, self.tensors)
        for weight in spec.weights:
            attributes[weight] = self.stored(getattr(layer, weight), f"{name}.{weight}")
        attributes = {k: v for k, v in attributes.items() if v is not None}
        return Layer(self.unique(name), kind, inputs, outputs, attributes)

    def constant(self, layer: Any) -> Layer:
        name, outputs = str(layer.name), self.outputs(layer)
        layer.__class__ = self.trt.IConstantLayer
        tensor = self.tensors[outputs[0]]
        key = self.stored(layer.weights, name, tensor.dtype)
        if key is None:
            raise CaptureError(f"constant {name!r} is empty; please report the model type")
        attributes: dict[str, Attribute] = {"weights": key, "shape": [int(d) for d in layer.shape]}
        return Layer(self.unique(name), "CONSTANT", [], outputs, attributes)

    def stored(self, weights: Any, name: str, dtype: DType | None = None) -> str | None:
        """Store ``weights``, once for equal data, and return its key; ``None`` for no weights."""
        array = weights.reshape(-1) if isinstance(weights, np.ndarray) else weights_array(weights)
        if array.size == 0:
            return None
        dtype = dtype or DType.of(array)
        identity: tuple[object, ...] = (array.ctypes.data, array.nbytes, dtype)
        if array.nbytes <= _COMPARE_BELOW:
            identity = (hashlib.sha256(array.tobytes()).digest(), dtype)
        if identity not in self.keys:
            key = base = re.sub(r"[^\w.\-]+", "_", name).strip("_") or "constant"
            number = 1
            while key in self.weights:
                number += 1
                key = f"{base}_{number}"
            self.keys[identity] = key
            self.weights[key] = _owned(array, self.owner)
        return self.keys[identity]

    def plugin(self, plugin: RecordedPlugin) -> Layer:
        """A separately recorded plugin layer, which takes the place of its first stand-in."""
        inputs: list[str | None] = [self.tensor(tensor) for tensor in plugin.inputs]
        outputs = [self.tensor(tensor) for tensor in plugin.outputs]
        return Layer(self.unique(plugin.layer.name), plugin.layer.kind, inputs, outputs, dict(plugin.layer.attributes))

    def begin_attention(self, layer: Any) -> None:
        inputs, outputs = self.inputs(layer), self.outputs(layer)
        layer.__class__ = self.trt.IAttentionInputLayer
        attention = layer.attention
        attributes = {p.name: p.read(self.trt, attention) for p in ATTENTION}
        inputs += [None] * (len(ATTENTION_INPUTS) - len(inputs))
        if inputs[ATTENTION_INPUTS.index("normalization_quantize_scale")] is not None:
            attributes["normalization_quantize_to_type"] = attention.normalization_quantize_to_type.name
        name = self.unique(str(attention.name or layer.name))
        self.attention[outputs[0]] = Layer(name, "ATTENTION", inputs, [], attributes)
        del self.tensors[outputs[0]]  # the tensor between the two boundary layers exists only in TensorRT

    def end_attention(self, layer: Any) -> Layer:
        joined = str(layer.get_input(0).name)
        attention = self.attention.pop(joined)
        attention.outputs = self.outputs(layer)
        return attention


def _trim_permutations(
    attributes: dict[str, Attribute], inputs: list[str | None], outputs: list[str], tensors: dict[str, Tensor]
) -> None:
    """Cut permutations to the rank they apply to (the bindings return all 8), and drop identity permutations."""
    ranks = {
        "first_transpose": len(tensors[str(inputs[0])].shape),
        "second_transpose": len(tensors[outputs[0]].shape),
    }
    for name, rank in ranks.items():
        order = attributes[name]
        assert isinstance(order, list)
        trimmed = [int(d) for d in order[:rank]]
        attributes[name] = None if trimmed == list(range(rank)) else trimmed


class _Memory:
    """Memory that NumPy can view, and its owner."""

    def __init__(self, array: np.ndarray, owner: object) -> None:
        self.__array_interface__, self.owner = array.__array_interface__, owner


def _owned(array: np.ndarray, owner: object) -> np.ndarray:
    """A view of the same memory that keeps ``owner`` alive."""
    return np.asarray(_Memory(array.view(np.uint8), owner)).view(array.dtype)


def weights_array(weights: Any) -> np.ndarray:
    """The memory behind a ``trt.Weights``, flat, without a copy; 4-bit types as packed bytes.

    The bindings return NumPy arrays for types that NumPy has, and an opaque object without an accessor for its pointer for
    the others. pybind11 keeps the C++ struct ``{DataType type; const void* values; int64_t count}`` one pointer
    after the object's header; the type and count read there are checked against the object's own.
    """
    dtype, count = dtype_of(weights.dtype), int(weights.size)
    struct = ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value or 0
    type_, values, size = (ctypes.c_int32.from_address(struct).value, *(ctypes.c_int64 * 2).from_address(struct + 8))
    if type_ != int(weights.dtype) or size != count:
        raise CaptureError(f"cannot read {dtype} weights from TensorRT's bindings; please report their version")
    nbytes = dtype.nbytes(count)
    raw: np.ndarray = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(values))
    return raw if dtype.bits < 8 else raw.view(dtype.numpy)


def sort_layers(layers: list[Layer], inputs: list[str]) -> list[Layer]:
    """Sort ``layers`` topologically, otherwise keeping their order.

    Raises ``CaptureError`` for a tensor that no layer computes, and for a cycle.
    """
    made_by = {name: layer for layer in layers for name in layer.outputs}
    done, ordered = set(inputs), []
    pending = list(layers)
    while pending:
        waiting = []
        for layer in pending:
            if all(name is None or name in done for name in layer.inputs):
                ordered.append(layer)
                done.update(layer.outputs)
            else:
                waiting.append(layer)
        if len(waiting) == len(pending):
            missing = next(name for name in waiting[0].inputs if name and name not in done)
            reason = "part of a cycle" if missing in made_by else "made by no layer"
            raise CaptureError(f"layer {waiting[0].name!r} reads {missing!r}, which is {reason}")
        pending = waiting
    return ordered
