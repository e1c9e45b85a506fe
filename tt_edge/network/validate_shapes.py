"""Checking the shapes and element types of a layer's inputs and outputs for consistency, by its kind. Torch-free.

Part of ``validate``. Sizes of -1 are known only when the network runs, and match any size here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tt_edge.dtypes import DType
from tt_edge.network.capture import DTYPES
from tt_edge.network.ir import Layer, Tensor

# What the inputs and the output have in common, by kind.
_SAME_TYPE = {
    *("ACTIVATION", "CONCATENATION", "IDENTITY", "MATRIX_MULTIPLY", "POOLING"),
    *("REDUCE", "SHUFFLE", "SOFTMAX", "SLICE", "UNARY"),
}
_SAME_SHAPE = {"ACTIVATION", "CAST", "CUMULATIVE", "IDENTITY", "NORMALIZATION", "SOFTMAX", "UNARY"}
_BROADCAST = {"ELEMENTWISE": (0, 1), "SELECT": (0, 1, 2)}

# Attributes that name axes of the first input: one axis, or a mask with a bit for each.
_AXIS = {"CONCATENATION", "GATHER"}
_AXES = {"REDUCE", "SOFTMAX", "TOPK", "NORMALIZATION"}


class LayerError(Exception):
    """A layer is malformed; the message says how."""


def check_tensors(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    """Raise ``LayerError`` for a layer of known kind, with the right numbers of inputs and outputs, whose tensors do not fit."""
    kind, first = layer.kind, inputs[0] if inputs else None
    if first is None:
        return
    rank = len(first.shape)
    if kind in _SAME_TYPE:
        data = inputs[:1] if kind in ("SHUFFLE", "SLICE") else inputs  # the others of these are sizes
        for tensor in (*data, outputs[0]):
            if tensor is not None and tensor.dtype is not first.dtype:
                raise LayerError(f"it computes {outputs[0].dtype} from {first.dtype} and {tensor.dtype}")
    if kind in _SAME_SHAPE and not _agree(first.shape, outputs[0].shape):
        raise LayerError(f"it makes shape {list(outputs[0].shape)} of {list(first.shape)}")
    if kind in _BROADCAST:
        _check_broadcast([inputs[index] for index in _BROADCAST[kind]], outputs[0])
    if kind in _AXIS and not 0 <= _integer(layer, "axis", 0) < max(rank, 1):
        raise LayerError(f"its axis is {layer.attributes.get('axis')}, and its input has {rank} dimensions")
    if kind in _AXES and not 0 < _integer(layer, "axes", 1) < 1 << rank:
        raise LayerError(f"its axes are {_integer(layer, 'axes', 1):#b}, and its input has {rank} dimensions")
    if (check := _BY_KIND.get(kind)) is not None:
        check(layer, inputs, outputs)


def _integer(layer: Layer, name: str, default: int) -> int:
    value = layer.attributes.get(name, default)
    return value if isinstance(value, int) else default


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes may be equal; -1 matches any size."""
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _check_broadcast(inputs: list[Tensor | None], output: Tensor) -> None:
    shapes = [tensor.shape for tensor in inputs if tensor is not None]
    if any(len(shape) != len(output.shape) for shape in shapes):
        raise LayerError(f"it makes {len(output.shape)} dimensions of {[len(shape) for shape in shapes]}")
    for sizes in zip(*shapes, output.shape, strict=True):
        known = {size for size in sizes[:-1] if size not in (-1, 1)}
        if len(known) > 1 or (sizes[-1] != -1 and known and sizes[-1] not in known):
            raise LayerError(f"it makes shape {list(output.shape)} of {[list(shape) for shape in shapes]}")


def _check_concatenation(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    output, axis = outputs[0].shape, _integer(layer, "axis", max(len(outputs[0].shape) - 3, 0))
    shapes = [tensor.shape for tensor in inputs if tensor is not None]
    fits = len(shapes) == len(inputs) and axis < len(output) and all(len(s) == len(output) for s in shapes)
    if not fits or any(not _agree(_without(s, axis), _without(output, axis)) for s in shapes):
        raise LayerError(f"it joins shapes {[list(s) for s in shapes][:8]} to {list(output)} along axis {axis}")
    along = [shape[axis] for shape in shapes]
    if -1 not in along and not _agree((sum(along),), output[axis : axis + 1]):
        raise LayerError(f"it joins sizes {along[:8]} to {output[axis]}")


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
        raise LayerError(f"it multiplies {list(one)} and {list(other)} to {list(out)}")


def _check_shuffle(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    ranks = {"first_transpose": _rank(inputs[0]), "second_transpose": len(outputs[0].shape)}
    for name, rank in ranks.items():
        order = layer.attributes.get(name)
        # The bindings return eight entries, of which the first ``rank`` count.
        if isinstance(order, list) and (len(order) not in (rank, 8) or sorted(order[:rank]) != list(range(rank))):
            raise LayerError(f"its {name} is {order}, of a tensor with {rank} dimensions")
    dims = layer.attributes.get("reshape_dims")
    if isinstance(dims, list) and (
        len(dims) != len(outputs[0].shape) or min(dims, default=0) < -1 or dims.count(-1) > 1
    ):
        raise LayerError(f"it reshapes to {dims}, and makes {len(outputs[0].shape)} dimensions")
    assert inputs[0] is not None
    before, after = inputs[0].shape, outputs[0].shape
    if -1 not in before and -1 not in after and math.prod(before) != math.prod(after):
        raise LayerError(f"it makes shape {list(after)} of {list(before)}")


def _check_slice(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    rank, axes = _rank(inputs[0]), layer.attributes.get("axes")
    length = len(axes) if isinstance(axes, list) else rank
    for name in ("start", "shape", "stride"):
        value = layer.attributes.get(name)
        if isinstance(value, list) and len(value) != length:
            raise LayerError(f"its {name} is {value}, of a tensor with {rank} dimensions")
    if len(outputs[0].shape) != rank:
        raise LayerError(f"it makes {len(outputs[0].shape)} dimensions of {rank}")


def _check_axes(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    axes = inputs[1]
    assert axes is not None
    if len(axes.shape) > 1 or axes.dtype not in (DType.INT32, DType.INT64):
        raise LayerError(f"its axes are {axes.dtype} {list(axes.shape)}")


def _check_cast(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    to_type = str(layer.attributes["to_type"])
    if DTYPES.get(to_type, outputs[0].dtype) is not outputs[0].dtype:
        raise LayerError(f"it casts to {to_type} and makes {outputs[0].dtype}")


def _check_cache(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    cache, update, indices = (tensor for tensor in inputs[:3] if tensor is not None)
    if cache.shape != outputs[0].shape or not cache.dtype is update.dtype is outputs[0].dtype or len(cache.shape) != 4:
        raise LayerError(f"it writes {update.dtype} into {list(cache.shape)} and makes {list(outputs[0].shape)}")
    if len(update.shape) != 4 or not _agree(cache.shape[:2] + cache.shape[3:], update.shape[:2] + update.shape[3:]):
        raise LayerError(f"it writes {list(update.shape)} into {list(cache.shape)}")
    if len(indices.shape) != 1 or indices.dtype not in (DType.INT32, DType.INT64):
        raise LayerError(f"it writes at indices {indices.dtype} {list(indices.shape)}")


def _check_attention(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    query, key, value = (tensor for tensor in inputs[:3] if tensor is not None)
    shapes = [list(tensor.shape) for tensor in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes) or not _agree(query.shape, outputs[0].shape[:3] + query.shape[3:]):
        raise LayerError(f"it attends with {shapes} and makes {list(outputs[0].shape)}")
    if not _agree(key.shape[:3], value.shape[:3]) or not _agree(query.shape[3:], key.shape[3:]):
        raise LayerError(f"it attends with {shapes}")
    if query.shape[1] > 0 and key.shape[1] > 0 and query.shape[1] % key.shape[1]:
        raise LayerError(f"it has {query.shape[1]} query heads for {key.shape[1]} of keys")
    if key.shape[1] == 0 or not query.dtype is key.dtype is value.dtype:
        raise LayerError(f"it attends with {query.dtype}, {key.dtype}, {value.dtype} of {key.shape[1]} heads")


def _check_rotary(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    x, width = inputs[0], layer.attributes["rotary_embedding_dim"]
    assert x is not None
    if len(x.shape) != 4 or not _agree(x.shape, outputs[0].shape) or x.dtype is not outputs[0].dtype:
        raise LayerError(f"it rotates {x.dtype} {list(x.shape)} to {list(outputs[0].shape)}")
    if not isinstance(width, int) or width < 0 or width % 2 or (x.shape[3] != -1 and width > x.shape[3]):
        raise LayerError(f"it rotates {width} of {x.shape[3]} numbers")
    tables = [tensor.shape for tensor in inputs[1:3] if tensor is not None]
    if any(len(t) not in (2, 3) or t[-1] not in (-1, (width or x.shape[3]) // 2) for t in tables):
        raise LayerError(f"its tables are {[list(t) for t in tables]}, of {width or x.shape[3]} rotated numbers")


def _check_gather(layer: Layer, inputs: list[Tensor | None], outputs: list[Tensor]) -> None:
    data, indices = (tensor for tensor in inputs if tensor is not None)
    if data.dtype is not outputs[0].dtype or indices.dtype not in (DType.INT32, DType.INT64, DType.BOOL):
        raise LayerError(f"it looks up {outputs[0].dtype} in {data.dtype} by {indices.dtype}")
    shared = _integer(layer, "num_elementwise_dims", 0)
    if layer.attributes.get("mode") == "DEFAULT" and (
        not 0 <= shared <= min(1, _integer(layer, "axis", 0))
        or len(outputs[0].shape) != len(data.shape) + len(indices.shape) - 1 - shared
    ):
        raise LayerError(f"it looks up {list(outputs[0].shape)} in {list(data.shape)} by {list(indices.shape)}")


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
    "SQUEEZE": _check_axes,
    "UNSQUEEZE": _check_axes,
}
