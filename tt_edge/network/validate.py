"""Validating a network before anything is computed or built from it. Torch-free.

``validate`` runs once on every network that is read. A network that passes has only layers of known kinds, each with the
inputs, outputs and attributes of its kind, and shapes and element types that are consistent where the kind defines how. So
code that rebuilds or evaluates a network need not check again. TensorRT may still refuse a layer for its own reasons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tt_edge.errors import BundleError
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.network.layers import ATTENTION, ATTENTION_INPUTS, SPECS, Codec, Property
from tt_edge.network.plugins import KINDS as PLUGINS
from tt_edge.network.plugins import is_field
from tt_edge.network.validate_shapes import LayerError, check_tensors

#: Largest size of a dimension: TensorRT's own limit of a tensor's elements (NvInfer.h, ``Dims``).
MAX_SIZE = 2**31 - 1
MAX_NAME = 4096

# Minimum and maximum number of inputs by kind.
_ANY = 1 << 16
_INPUTS: dict[str, tuple[int, int]] = {
    "ATTENTION": (3, len(ATTENTION_INPUTS)),
    "CONCATENATION": (1, _ANY),
    "CONSTANT": (0, 0),
    "CONVOLUTION": (1, 3),
    "CUMULATIVE": (2, 2),
    "DEQUANTIZE": (2, 3),
    "DYNAMIC_QUANTIZE": (1, 2),
    "EINSUM": (1, _ANY),
    "ELEMENTWISE": (2, 2),
    "FILL": (0, 3),
    "GATHER": (2, 2),
    "KV_CACHE_UPDATE": (3, 3),
    "MATRIX_MULTIPLY": (2, 2),
    "NORMALIZATION": (3, 3),
    "ONE_HOT": (3, 3),
    "QUANTIZE": (2, 3),
    "RESIZE": (1, 4),
    "ROTARY_EMBEDDING": (3, 4),
    "SCATTER": (3, 3),
    "SELECT": (3, 3),
    "SHUFFLE": (1, 2),
    "SLICE": (1, 6),
    "SQUEEZE": (2, 2),
    "TOPK": (1, 2),
    "UNSQUEEZE": (2, 2),
    **dict.fromkeys(PLUGINS, (1, _ANY)),
}
_OUTPUTS = {"ASSERTION": 0, "DYNAMIC_QUANTIZE": 2, "TOPK": 2}


def validate(network: Network) -> None:
    """Raise ``BundleError`` for a network with inconsistent names, shapes or attributes. Its weights must be loaded already."""
    _check_references(network)
    names: set[str] = set()
    for layer in network.layers:
        try:
            if layer.name in names:
                raise LayerError("another layer has its name")
            names.add(layer.name)
            _check_layer(layer, network)
        except LayerError as error:
            raise BundleError(
                f"layer {layer.name[:80]!r} ({layer.kind[:40]!r}) is malformed: {error}; copy the bundle again"
            ) from None


def _check_references(network: Network) -> None:
    """Check that every tensor is declared, is made once, and is made before it is read."""
    made: set[str] = set()

    def make(names: list[str]) -> None:
        for name in names:
            if name not in network.tensors or name in made:
                _refuse(f"tensor {name[:80]!r} is undeclared or made twice")
            made.add(name)

    make(network.inputs)
    for layer in network.layers:
        for name in layer.inputs:
            if name is not None and name not in made:
                _refuse(f"layer {layer.name[:80]!r} reads {name[:80]!r} before it is made")
        make(layer.outputs)
    for name in network.outputs:
        if name not in made or name in network.inputs:
            _refuse(f"output {name[:80]!r} is made by no layer")
    if len(set(network.outputs)) != len(network.outputs):
        _refuse("an output is listed twice")
    if not network.outputs:
        _refuse("it has no outputs")
    if len(made) != len(network.tensors):
        _refuse("a declared tensor is made by no layer")


def _refuse(why: str) -> None:
    raise BundleError(f"the network is malformed ({why}); copy the bundle again")


def _check_layer(layer: Layer, network: Network) -> None:
    kind = layer.kind
    if kind not in SPECS and kind not in _INPUTS:
        raise LayerError("tt-edge knows no such kind; update tt-edge")
    least, most = _INPUTS.get(kind, (1, 1))
    if not least <= len(layer.inputs) <= most or None in layer.inputs[:least]:
        raise LayerError(f"it has {len(layer.inputs)} inputs, some of them unset or too many or too few")
    expected = _OUTPUTS.get(kind, 1)
    if len(layer.outputs) != expected and not (kind in PLUGINS and layer.outputs):
        raise LayerError(f"it has {len(layer.outputs)} outputs, not {expected}")
    inputs = [None if name is None else network.tensors[name] for name in layer.inputs]
    outputs = [network.tensors[name] for name in layer.outputs]
    if kind in PLUGINS:
        _check_plugin(layer)
    elif kind == "CONSTANT":
        _check_constant(layer, outputs[0], network.weights)
    else:
        _check_attributes(layer, network.weights)
        check_tensors(layer, inputs, outputs)


# Attributes


def _check_attributes(layer: Layer, weights: Mapping[str, np.ndarray]) -> None:
    spec = SPECS.get(layer.kind)
    properties = ATTENTION if spec is None else spec.properties
    keys = () if spec is None else spec.weights
    known = {p.name for p in properties} | set(keys)
    if layer.kind == "ATTENTION":
        known.add("normalization_quantize_to_type")
    if strange := next((name for name in layer.attributes if name not in known), None):
        raise LayerError(f"it has an attribute {strange[:80]!r}, which the kind lacks")
    for p in properties:
        if p.name not in layer.attributes:
            if p.at_creation and not _is_replaced(p, layer):
                raise LayerError(f"it lacks the attribute {p.name!r}")
            continue
        value = layer.attributes[p.name]
        if not _CHECKS.get(p.codec, _is_member)(value):
            raise LayerError(f"its {p.name} is {str(value)[:80]!r}")
    for name in keys:
        key = layer.attributes.get(name)
        if key is not None and (not isinstance(key, str) or key not in weights):
            raise LayerError(f"its {name} is {str(key)[:80]!r}, a weight that is not there")


def _is_replaced(p: Property, layer: Layer) -> bool:
    at = p.replaced_by
    return at is not None and at < len(layer.inputs) and layer.inputs[at] is not None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value <= MAX_SIZE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -3.5e38 < value < 3.5e38


def _is_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) <= 8 and all(check(v) for v in value)


def _is_permutation(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 8 and all(_is_integer(v) and 0 <= v < 8 for v in value)


def _is_member(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z]\w{0,63}", value, re.ASCII) is not None


_CHECKS: dict[str, Callable[[Any], bool]] = {
    Codec.INTEGER: _is_integer,
    Codec.NUMBER: _is_number,
    Codec.FLAG: lambda value: isinstance(value, bool),
    Codec.TEXT: lambda value: isinstance(value, str) and len(value) <= MAX_NAME and "\0" not in value,
    Codec.DIMS: _is_list_of(_is_integer),
    Codec.PERMUTATION: _is_permutation,
    Codec.NUMBERS: _is_list_of(_is_number),
}


def _check_plugin(layer: Layer) -> None:
    for name in ("plugin", "version", "namespace", "generation"):
        value = layer.attributes.get(name)
        if not isinstance(value, str) or len(value) > 256 or "\0" in value:
            raise LayerError(f"its {name} is {str(value)[:80]!r}")
    for name, value in layer.attributes.items():
        if "." in name:
            if not is_field(name, value):
                raise LayerError(f"its field {name[:80]!r} is {str(value)[:80]!r}")
        elif name not in ("plugin", "version", "namespace", "generation"):
            raise LayerError(f"it has an attribute {name[:80]!r}, which plugins lack")


def _check_constant(layer: Layer, tensor: Tensor, weights: Mapping[str, np.ndarray]) -> None:
    key = layer.attributes.get("weights")
    array = weights.get(key) if isinstance(key, str) else None
    if array is None:
        raise LayerError(f"it names the weight {str(key)[:80]!r}, which the weights file lacks")
    if -1 in tensor.shape or array.nbytes != tensor.dtype.nbytes(math.prod(tensor.shape)):
        raise LayerError(f"a constant of shape {list(tensor.shape)} does not fit its weight of {array.nbytes} bytes")
    if set(layer.attributes) - {"weights", "shape"} or layer.attributes.get("shape") != list(tensor.shape):
        raise LayerError(
            f"its shape is {str(layer.attributes.get('shape'))[:80]}, and its tensor's {list(tensor.shape)}"
        )
