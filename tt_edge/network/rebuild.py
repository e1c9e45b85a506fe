"""Rebuilding a captured network as an ``INetworkDefinition``, on any machine with TensorRT. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import CaptureError, one_line
from tt_edge.network.capture import DTYPES
from tt_edge.network.ir import Layer, Network
from tt_edge.network.layers import ATTENTION, SPECS, Adder, LayerSpec, Property, enum_member
from tt_edge.network.plugins import KINDS, add_plugin
from tt_edge.tensorrt_api import TensorRT

#: Written into a layer's metadata: its index in the captured network, which identifies the layers of an engine.
ORIGIN = "tt-edge:{};"

_TRT_NAMES = {dtype: name for name, dtype in DTYPES.items()}


# Raised by the bindings for arguments that they refuse.
_REFUSALS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


@dataclass
class RebuiltNetwork:
    """A TensorRT network with the objects that must outlive it: its builder, and the arrays that its weights point into."""

    builder: Any
    network: Any
    weights: dict[str, np.ndarray]
    given: dict[str, Any]  # the same weights, as passed to TensorRT

    def name_weights(self) -> None:
        """Name all weights by their keys, so that they can be added to an engine without weights."""
        for key, weights in self.given.items():
            if not self.network.set_weights_name(weights, key):
                raise CaptureError(f"TensorRT refuses {key!r} as a name of weights; build without --strip-weights")


def rebuild(tensorrt: TensorRT, network: Network) -> RebuiltNetwork:
    """Add every layer of ``network`` to a fresh, strongly typed ``INetworkDefinition``.

    Tensor and layer names, layer order and attributes are those that were captured. Weights are not copied. Raises
    ``CaptureError`` when this TensorRT lacks a layer, or refuses one or a property of one.
    """
    errors = len(tensorrt.log.errors)
    rebuilt = _Rebuild(tensorrt, network).run()
    if len(tensorrt.log.errors) > errors:  # e.g. for a bad stride TensorRT only logs an error and ignores the value
        raise CaptureError(
            f"TensorRT {tensorrt.version} refuses the network ({' '.join(tensorrt.log.last_error().split())[:500]}); "
            "compile the model again"
        )
    return rebuilt


class _Rebuild:
    def __init__(self, tensorrt: TensorRT, network: Network) -> None:
        self.trt, self.captured = tensorrt.module, network
        self.builder = self.trt.Builder(tensorrt.logger)
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self.network = self.builder.create_network(0 if flag is None else 1 << int(flag))
        self.network.name = network.name
        self.tensors: dict[str, Any] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.given: dict[str, Any] = {}
        self.places = {id(layer): place for place, layer in enumerate(network.layers)}

    def run(self) -> RebuiltNetwork:
        for name in self.captured.inputs:
            tensor = self.captured.tensors[name]
            self.tensors[name] = self.network.add_input(name, self.dtype(tensor.dtype), tensor.shape)
        for layer in self.captured.layers:
            try:
                self.add(layer)
            except _REFUSALS as error:
                raise CaptureError(
                    f"TensorRT {self.trt.__version__} refuses layer {layer.name!r} ({layer.kind}): {one_line(error)}; "
                    "compile the model again"
                ) from error
        for name in self.captured.outputs:
            self.network.mark_output(self.tensors[name])
        return RebuiltNetwork(self.builder, self.network, self.weights, self.given)

    def add(self, layer: Layer) -> None:
        if layer.kind == "ATTENTION":
            self.attention(layer)
        elif layer.kind == "CONSTANT":
            self.constant(layer)
        elif layer.kind in KINDS:
            self.finish(layer, add_plugin(self.trt, self.network, layer, self.inputs(layer)))
        else:
            self.layer(layer)

    def dtype(self, dtype: DType) -> Any:
        return enum_member(self.trt, "DataType", _TRT_NAMES[dtype])

    def stored(self, key: str, dtype: DType) -> Any:
        """``trt.Weights`` over the stored array ``key``."""
        array = self.weights.setdefault(key, np.ascontiguousarray(self.captured.weights[key]))
        return self.give(key, array, dtype, array.nbytes * 8 // dtype.bits)

    def give(self, key: str, array: np.ndarray, dtype: DType, count: int) -> Any:
        weights = self.trt.Weights(self.dtype(dtype), array.ctypes.data, count)
        self.given[key] = weights
        return weights

    def finish(self, layer: Layer, added: Any) -> None:
        """Name a new layer and its outputs as they were captured."""
        if added is None:
            raise CaptureError(
                f"TensorRT {self.trt.__version__} refuses layer {layer.name!r} ({layer.kind}); its log says why"
            )
        added.name = layer.name
        if hasattr(added, "metadata"):
            added.metadata = ORIGIN.format(self.places[id(layer)])
        for index, name in enumerate(layer.outputs):
            tensor = added.get_output(index)
            tensor.name = name
            self.tensors[name] = tensor

    def constant(self, layer: Layer) -> None:
        tensor = self.captured.tensors[layer.outputs[0]]
        count = int(np.prod(tensor.shape, dtype=np.int64))
        key = str(layer.attributes["weights"])
        stored = self.captured.weights[key]
        if stored.nbytes != tensor.dtype.nbytes(count):
            raise CaptureError(
                f"weight {key!r} has {stored.nbytes} bytes where constant {layer.name!r} needs "
                f"{tensor.dtype.nbytes(count)}; capture the network again"
            )
        array = self.weights.setdefault(key, np.ascontiguousarray(stored))
        self.finish(layer, self.network.add_constant(tensor.shape, self.give(key, array, tensor.dtype, count)))

    def inputs(self, layer: Layer) -> list[Any]:
        return [None if name is None else self.tensors[name] for name in layer.inputs]

    def layer(self, layer: Layer) -> None:
        spec = SPECS.get(layer.kind)
        if spec is None:
            raise CaptureError(f"layer {layer.name!r} has the unknown kind {layer.kind}; update tt-edge")
        inputs = self.inputs(layer)
        direct = len(inputs) if spec.direct_inputs is None else spec.direct_inputs
        rank = len(self.captured.tensors[layer.inputs[0]].shape) if layer.inputs and layer.inputs[0] else 0
        added = spec.add(Adder(self.trt, self.network, inputs[: max(direct, 1)], self.values(layer, spec), rank))
        if added is not None:
            for index in range(direct, len(inputs)):
                if inputs[index] is not None:
                    added.set_input(index, inputs[index])
            self.assign(layer, added, spec.binding, spec.properties)
        self.finish(layer, added)

    def values(self, layer: Layer, spec: LayerSpec) -> dict[str, Any]:
        """The decoded arguments of the ``add_*`` call."""
        values = {
            p.name: p.decode(self.trt, layer.attributes[p.name])
            for p in spec.properties
            if p.at_creation and p.name in layer.attributes
        }
        for name in spec.weights:
            key = layer.attributes.get(name)
            dtype = self.captured.tensors[layer.outputs[0]].dtype
            values[name] = self.trt.Weights() if key is None else self.stored(str(key), dtype)
        return values

    def assign(self, layer: Layer, added: Any, binding: str, properties: tuple[Property, ...]) -> None:
        """Set the properties that are not arguments of the ``add_*`` call, where they differ from the default."""
        for p in properties:
            if p.at_creation or p.name not in layer.attributes:
                continue
            value = layer.attributes[p.name]
            if not hasattr(getattr(self.trt, binding), p.name):
                if value != p.default:
                    raise CaptureError(
                        f"layer {layer.name!r} needs {binding}.{p.name} = {value}, which begins with TensorRT {p.since}; "
                        f"here is {self.trt.__version__}"
                    )
                continue
            if p.read(self.trt, added) != value:
                setattr(added, p.name, p.decode(self.trt, value))

    def attention(self, layer: Layer) -> None:
        query, key, value, mask, scale, query_lengths, key_value_lengths = self.inputs(layer)
        added = self._add_attention(layer, query, key, value)
        if added is not None:
            self.assign(layer, added, "IAttention", ATTENTION)
            optional = {
                "mask": mask,
                "normalization_quantize_scale": scale,
                "query_lengths": query_lengths,
                "key_value_lengths": key_value_lengths,
            }
            for name, tensor in optional.items():
                if tensor is not None:
                    setattr(added, name, tensor)
            if scale is not None:
                to_type = str(layer.attributes["normalization_quantize_to_type"])
                added.normalization_quantize_to_type = enum_member(self.trt, "DataType", to_type)
        self.finish(layer, added)

    def _add_attention(self, layer: Layer, query: Any, key: Any, value: Any) -> Any:
        """Use the newest call available: until 10.16 a layer only has a causal flag, without the kind of diagonal."""
        kind, has_layer = str(layer.attributes["causal_kind"]), hasattr(self.network, "add_attention")
        if not has_layer or (kind != "NONE" and not hasattr(self.network, "add_attention_v2")):
            raise CaptureError(
                f"attention {layer.name!r} of the kind {kind} is none that TensorRT {self.trt.__version__} has; legalize the "
                "network before it is rebuilt"
            )
        norm = enum_member(self.trt, "AttentionNormalizationOp", str(layer.attributes["norm_op"]))
        if hasattr(self.network, "add_attention_v2"):
            return self.network.add_attention_v2(query, key, value, norm, enum_member(self.trt, "CausalMaskKind", kind))
        return self.network.add_attention(query, key, value, norm, False)
