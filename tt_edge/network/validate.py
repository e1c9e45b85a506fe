"""What a network must be before anything is computed or built from it. Torch-free.

``validate`` is run on every network that is read, once. What it accepts has layers of known kinds, each with the inputs,
outputs and attributes of its kind, and shapes and element types that agree with each other where the kind says how. So
what rebuilds or evaluates a network need not ask again. A layer may still be refused by TensorRT, for reasons of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.errors import BundleError
from tt_edge.network.capture import DTYPES
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.network.layers import ATTENTION, ATTENTION_INPUTS, SPECS, Codec, Property
from tt_edge.network.plugins import KINDS as PLUGINS
from tt_edge.network.plugins import is_field

#: Largest size of a dimension: TensorRT's own limit of a tensor's elements (NvInfer.h, ``Dims``).
MAX_SIZE = 2**31 - 1
MAX_NAME = 4096

# Inputs by kind: how many must be there, and how many there may be.
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

# What the inputs and the output share, by kind.
_SAME_TYPE = {
    "ACTIVATION",
    "CONCATENATION",
    "IDENTITY",
    "MATRIX_MULTIPLY",
    "POOLING",
    "REDUCE",
    "SHUFFLE",
    "SOFTMAX",
    "SLICE",
    "UNARY",
}
_SAME_SHAPE = {"ACTIVATION", "CAST", "CUMULATIVE", "IDENTITY", "NORMALIZATION", "SOFTMAX", "UNARY"}
_BROADCAST = {"ELEMENTWISE": (0, 1), "SELECT": (0, 1, 2)}

# Attributes that name axes of the first input: one axis, or a mask with a bit for each.
_AXIS = {"CONCATENATION", "GATHER"}
_AXES = {"REDUCE", "SOFTMAX", "TOPK", "NORMALIZATION"}


class _LayerError(Exception):
    """What is wrong with a layer."""


def validate(network: Network) -> None:
    """Raise ``BundleError`` for a network that names, shapes or attributes make impossible; it has its weights already."""
    _check_references(network)
    names: set[str] = set()
    for layer in network.layers:
        try:
            if layer.name in names:
                raise _LayerError("another layer has its name")
            names.add(layer.name)
            _check_layer(layer, network)
        except _LayerError as error:
            raise BundleError(
                f"layer {layer.name[:80]!r} ({layer.kind[:40]!r}) is malformed: {error}; copy the bundle again"
            ) from None


def _check_references(network: Network) -> None:
    """Every tensor is declared, made once, and made before it is read."""
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
        if name not in made:
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
        raise _LayerError("tt-edge knows no such kind; update tt-edge")
    least, most = _INPUTS.get(kind, (1, 1))
    if not least <= len(layer.inputs) <= most or None in layer.inputs[:least]:
        raise _LayerError(f"it has {len(layer.inputs)} inputs, some of them unset or too many or too few")
    expected = _OUTPUTS.get(kind, 1)
    if len(layer.outputs) != expected and not (kind in PLUGINS and layer.outputs):
        raise _LayerError(f"it has {len(layer.outputs)} outputs, not {expected}")
    inputs = [None if name is None else network.tensors[name] for name in layer.inputs]
    outputs = [network.tensors[name] for name in layer.outputs]
    if kind in PLUGINS:
        _check_plugin(layer)
    elif kind == "CONSTANT":
        _check_constant(layer, outputs[0], network.weights)
    else:
        _check_attributes(layer, network.weights)
        _check_tensors(layer, inputs, outputs)


# Attributes


def _check_attributes(layer: Layer, weights: Mapping[str, np.ndarray]) -> None:
    spec = SPECS.get(layer.kind)
    properties = ATTENTION if spec is None else spec.properties
    keys = () if spec is None else spec.weights
    known = {p.name for p in properties} | set(keys)
    if layer.kind == "ATTENTION":
        known.add("normalization_quantize_to_type")
    if strange := next((name for name in layer.attributes if name not in known), None):
        raise _LayerError(f"it has an attribute {strange[:80]!r}, which the kind lacks")
    for p in properties:
        if p.name not in layer.attributes:
            if p.at_creation and not _is_replaced(p, layer):
                raise _LayerError(f"it lacks the attribute {p.name!r}")
            continue
        value = layer.attributes[p.name]
        if not _CHECKS.get(p.codec, _is_member)(value):
            raise _LayerError(f"its {p.name} is {str(value)[:80]!r}")
    for name in keys:
        key = layer.attributes.get(name)
        if key is not None and (not isinstance(key, str) or key not in weights):
            raise _LayerError(f"its {name} is {str(key)[:80]!r}, a weight that is not there")


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
            raise _LayerError(f"its {name} is {str(value)[:80]!r}")
    for name, value in layer.attributes.items():
        if "." in name:
            if not is_field(name, value):
                raise _LayerError(f"its field {name[:80]!r} is {str(value)[:80]!r}")
        elif name not in ("plugin", "version", "namespace", "generation"):
            raise _LayerError(f"it has an attribute {name[:80]!r}, which plugins lack")


def _check_constant(layer: Layer, tensor: Tensor, weights: Mapping[str, np.ndarray]) -> None:
    key = layer.attributes.get("weights")
    array = weights.get(key) if isinstance(key, str) else None
    if array is None:
        raise _LayerError(f"it names the weight {str(key)[:80]!r}, which the weights file lacks")
    if -1 in tensor.shape or array.nbytes != tensor.dtype.nbytes(math.prod(tensor.shape)):
        raise _LayerError(f"a constant of shape {list(tensor.shape)} does not fit its weight of {array.nbytes} bytes")
    if set(layer.attributes) - {"weights", "shape"} or layer.attributes.get("shape") != list(tensor.shape):
        raise _LayerError(
            f"its shape is {str(layer.attributes.get('shape'))[:80]}, and its tensor's {list(tensor.shape)}"
        )


# Tensors


def _check_tensors(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    kind, first = layer.kind, inputs[0] if inputs else None
    if first is None:
        return
    rank = len(first.shape)
    if kind in _SAME_TYPE:
        for tensor in (*inputs[: 1 if kind == "SLICE" else None], outputs[0]):
            if (
                tensor is not None
                and tensor.dtype is not first.dtype
                and not (kind == "SHUFFLE" and tensor is inputs[-1])
            ):
                raise _LayerError(f"it computes {outputs[0].dtype} from {first.dtype} and {tensor.dtype}")
    if kind in _SAME_SHAPE and not _agree(first.shape, outputs[0].shape):
        raise _LayerError(f"it makes shape {list(outputs[0].shape)} of {list(first.shape)}")
    if kind in _BROADCAST:
        _check_broadcast([inputs[index] for index in _BROADCAST[kind]], outputs[0])
    if kind in _AXIS and not 0 <= _integer(layer, "axis", 0) < max(rank, 1):
        raise _LayerError(f"its axis is {layer.attributes.get('axis')}, and its input has {rank} dimensions")
    if kind in _AXES and not 0 < _integer(layer, "axes", 1) < 1 << rank:
        raise _LayerError(f"its axes are {layer.attributes.get('axes'):#b}, and its input has {rank} dimensions")
    if (check := _BY_KIND.get(kind)) is not None:
        check(layer, inputs, outputs)


def _integer(layer: Layer, name: str, default: int) -> int:
    value = layer.attributes.get(name, default)
    return value if isinstance(value, int) else default


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes may be the same; -1 may be anything."""
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _check_broadcast(inputs: list[Tensor | None], output: Tensor) -> None:
    shapes = [tensor.shape for tensor in inputs if tensor is not None]
    if any(len(shape) != len(output.shape) for shape in shapes):
        raise _LayerError(f"it makes {len(output.shape)} dimensions of {[len(shape) for shape in shapes]}")
    for sizes in zip(*shapes, output.shape, strict=True):
        known = {size for size in sizes[:-1] if size not in (-1, 1)}
        if len(known) > 1 or (sizes[-1] != -1 and known and sizes[-1] not in known):
            raise _LayerError(f"it makes shape {list(output.shape)} of {[list(shape) for shape in shapes]}")


def _check_concatenation(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    output, axis = outputs[0].shape, _integer(layer, "axis", max(len(outputs[0].shape) - 3, 0))
    shapes = [tensor.shape for tensor in inputs if tensor is not None]
    fits = len(shapes) == len(inputs) and axis < len(output) and all(len(s) == len(output) for s in shapes)
    if not fits or any(not _agree(_without(s, axis), _without(output, axis)) for s in shapes):
        raise _LayerError(f"it joins shapes {[list(s) for s in shapes][:8]} to {list(output)} along axis {axis}")
    along = [shape[axis] for shape in shapes]
    if -1 not in along and not _agree((sum(along),), output[axis : axis + 1]):
        raise _LayerError(f"it joins sizes {along[:8]} to {output[axis]}")


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _check_product(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    one, other = (tensor.shape for tensor in inputs if tensor is not None)
    out, ops = outputs[0].shape, [layer.attributes.get(name) for name in ("op0", "op1")]
    if "VECTOR" in ops:
        return
    fits = len(one) == len(other) == len(out) >= 2
    if fits:
        rows, inner = one[-2:] if ops[0] == "NONE" else one[:-3:-1]
        inner_too, columns = other[-2:] if ops[1] == "NONE" else other[:-3:-1]
        fits = _agree((inner,), (inner_too,)) and _agree(out[-2:], (rows, columns))
    if not fits:
        raise _LayerError(f"it multiplies {list(one)} and {list(other)} to {list(out)}")


def _check_shuffle(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    ranks = {"first_transpose": _rank(inputs[0]), "second_transpose": len(outputs[0].shape)}
    for name, rank in ranks.items():
        order = layer.attributes.get(name)
        # The bindings give eight entries, of which those of the rank count.
        if isinstance(order, list) and (len(order) not in (rank, 8) or sorted(order[:rank]) != list(range(rank))):
            raise _LayerError(f"its {name} is {order}, of a tensor with {rank} dimensions")
    dims = layer.attributes.get("reshape_dims")
    if isinstance(dims, list) and (
        len(dims) != len(outputs[0].shape) or min(dims, default=0) < -1 or dims.count(-1) > 1
    ):
        raise _LayerError(f"it reshapes to {dims}, and makes {len(outputs[0].shape)} dimensions")
    assert inputs[0] is not None
    before, after = inputs[0].shape, outputs[0].shape
    if -1 not in before and -1 not in after and math.prod(before) != math.prod(after):
        raise _LayerError(f"it makes shape {list(after)} of {list(before)}")


def _check_slice(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    rank, axes = _rank(inputs[0]), layer.attributes.get("axes")
    length = len(axes) if isinstance(axes, list) else rank
    for name in ("start", "shape", "stride"):
        value = layer.attributes.get(name)
        if isinstance(value, list) and len(value) != length:
            raise _LayerError(f"its {name} is {value}, of a tensor with {rank} dimensions")
    if len(outputs[0].shape) != rank:
        raise _LayerError(f"it makes {len(outputs[0].shape)} dimensions of {rank}")


def _check_cast(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    to_type = str(layer.attributes["to_type"])
    if DTYPES.get(to_type, outputs[0].dtype) is not outputs[0].dtype:
        raise _LayerError(f"it casts to {to_type} and makes {outputs[0].dtype}")


def _check_cache(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    cache, update, indices = (tensor for tensor in inputs[:3] if tensor is not None)
    if cache.shape != outputs[0].shape or not cache.dtype is update.dtype is outputs[0].dtype or len(cache.shape) != 4:
        raise _LayerError(f"it writes {update.dtype} into {list(cache.shape)} and makes {list(outputs[0].shape)}")
    if len(update.shape) != 4 or not _agree(cache.shape[:2] + cache.shape[3:], update.shape[:2] + update.shape[3:]):
        raise _LayerError(f"it writes {list(update.shape)} into {list(cache.shape)}")
    if len(indices.shape) != 1 or indices.dtype not in (DType.INT32, DType.INT64):
        raise _LayerError(f"it writes at indices {indices.dtype} {list(indices.shape)}")


def _check_attention(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    query, key, value = (tensor for tensor in inputs[:3] if tensor is not None)
    shapes = [list(tensor.shape) for tensor in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes) or not _agree(query.shape, outputs[0].shape[:3] + query.shape[3:]):
        raise _LayerError(f"it attends with {shapes} and makes {list(outputs[0].shape)}")
    if not _agree(key.shape[:3], value.shape[:3]) or not _agree(query.shape[3:], key.shape[3:]):
        raise _LayerError(f"it attends with {shapes}")
    if query.shape[1] > 0 and key.shape[1] > 0 and query.shape[1] % key.shape[1]:
        raise _LayerError(f"it has {query.shape[1]} query heads for {key.shape[1]} of keys")
    if key.shape[1] == 0 or not query.dtype is key.dtype is value.dtype:
        raise _LayerError(f"it attends with {query.dtype}, {key.dtype}, {value.dtype} of {key.shape[1]} heads")


def _check_rotary(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    x, width = inputs[0], layer.attributes["rotary_embedding_dim"]
    assert x is not None
    if len(x.shape) != 4 or not _agree(x.shape, outputs[0].shape) or x.dtype is not outputs[0].dtype:
        raise _LayerError(f"it rotates {x.dtype} {list(x.shape)} to {list(outputs[0].shape)}")
    if not isinstance(width, int) or width < 0 or width % 2 or (x.shape[3] != -1 and width > x.shape[3]):
        raise _LayerError(f"it rotates {width} of {x.shape[3]} numbers")
    tables = [tensor.shape for tensor in inputs[1:3] if tensor is not None]
    if any(len(t) not in (2, 3) or t[-1] not in (-1, (width or x.shape[3]) // 2) for t in tables):
        raise _LayerError(f"its tables are {[list(t) for t in tables]}, of {width or x.shape[3]} rotated numbers")


def _check_gather(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    data, indices = (tensor for tensor in inputs if tensor is not None)
    if data.dtype is not outputs[0].dtype or indices.dtype not in (DType.INT32, DType.INT64, DType.BOOL):
        raise _LayerError(f"it looks up {outputs[0].dtype} in {data.dtype} by {indices.dtype}")
    shared = _integer(layer, "num_elementwise_dims", 0)
    if layer.attributes.get("mode") == "DEFAULT" and (
        not 0 <= shared <= min(1, _integer(layer, "axis", 0))
        or len(outputs[0].shape) != len(data.shape) + len(indices.shape) - 1 - shared
    ):
        raise _LayerError(f"it looks up {list(outputs[0].shape)} in {list(data.shape)} by {list(indices.shape)}")


def _rank(tensor: Tensor | None) -> int:
    return 0 if tensor is None else len(tensor.shape)


_BY_KIND: dict[str, Callable[[Layer, list[Tensor | None], list[Tensor]], None]] = {
    "ATTENTION": _check_attention,
    "CAST": _check_cast,
    "CONCATENATION": _check_concatenation,
    "GATHER": _check_gather,
    "KV_CACHE_UPDATE": _check_cache,
    "MATRIX_MULTIPLY": _check_product,
    "ROTARY_EMBEDDING": _check_rotary,
    "SHUFFLE": _check_shuffle,
    "SLICE": _check_slice,
}
