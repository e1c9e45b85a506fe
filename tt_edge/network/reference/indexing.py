"""GATHER, SCATTER, NON_ZERO, ONE_HOT and TOPK: reading and writing by index."""

from __future__ import annotations

import numpy as np

from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.reference.numerics import widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel


def _wrapped(index: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray | None]:
    """``index`` with negative entries counted from the end, and where it still is out of bounds (None: nowhere).

    Out-of-bounds entries are set to 0.
    """
    if index.size == 0 or (index.min() >= 0 and index.max() < length):
        return index, None
    index = np.where(index < 0, index + length, index)
    outside = (index < 0) | (index >= length)
    if not outside.any():
        return index, None
    if length == 0:
        raise InvalidInputError("a gather or scatter indexes a dimension of length 0; check the network's inputs")
    return np.where(outside, 0, index), outside


def _zeroed(out: np.ndarray, outside: np.ndarray | None, axis: int) -> np.ndarray:
    """``out`` with zeros where ``outside``, whose dimensions start at ``axis`` of ``out``."""
    if outside is None:
        return out
    trailing = (1,) * (out.ndim - axis - outside.ndim)
    return np.where(outside.reshape(outside.shape + trailing), np.zeros((), out.dtype), out)


def _gather(data: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    index, outside = _wrapped(index, data.shape[axis])
    return _zeroed(np.take(data, index, axis), outside, axis)


def _gather_rows(data: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Row b of the output is row b of ``data`` gathered by row b of ``index``; one-row inputs serve all rows."""
    rows = np.broadcast_shapes(data.shape[:1], index.shape[:1])[0]
    parts = [_gather(data[b if len(data) > 1 else 0], index[b if len(index) > 1 else 0], axis - 1) for b in range(rows)]
    return np.stack(parts)


def _gather_elements(data: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    index, outside = _wrapped(index, data.shape[axis])
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[axis] = index
    return _zeroed(data[tuple(grid)], outside, 0)


def _gather_nd(data: np.ndarray, index: np.ndarray, batch: int) -> np.ndarray:
    """Index tuples along the last axis of ``index`` select slices of ``data``, after ``batch`` shared dimensions."""
    columns: list[np.ndarray] = []
    anywhere = None
    for position in range(index.shape[-1]):
        column, outside = _wrapped(index[..., position], data.shape[batch + position])
        columns.append(column)
        if outside is not None:
            anywhere = outside if anywhere is None else anywhere | outside
    shared = np.ogrid[tuple(slice(n) for n in index.shape[:batch])] if batch else ()
    shared = tuple(s.reshape(s.shape + (1,) * (index.ndim - 1 - batch)) for s in shared)
    return _zeroed(data[(*shared, *columns)], anywhere, 0)


_GATHER_MODES = {mode: mode for mode in ("DEFAULT", "ELEMENT", "ND")}


@kernel("GATHER")
def gather(layer: BoundLayer) -> Compute:
    """Elements of input 0 at the indices of input 1 (NvInfer.h, ``IGatherLayer``).

    DEFAULT replaces dimension ``axis`` by the dimensions of the indices; with ``num_elementwise_dims`` 1 the first
    dimension of both is matched, with broadcasting. ELEMENT reads ``data[J with J[axis] = index[J]]``. ND takes index
    tuples from the last dimension. Negative indices count from the end; out-of-bounds ones read zero.
    """
    axis, batch = layer.integer("axis", 0), layer.integer("num_elementwise_dims", 0)
    mode = layer.choose("mode", _GATHER_MODES, "DEFAULT")
    if mode == "ELEMENT":
        return lambda data, index: _gather_elements(data, index, axis)
    if mode == "ND":
        return lambda data, index: _gather_nd(data, index, batch)
    if batch:
        return lambda data, index: _gather_rows(data, index, axis)
    return lambda data, index: _gather(data, index, axis)


@kernel("SCATTER")
def scatter(layer: BoundLayer) -> Compute:
    """A copy of input 0 with input 2 written at the indices of input 1 (NvInfer.h, ``IScatterLayer``).

    ELEMENT writes ``out[J with J[axis] = index[J]] = updates[J]``; ND takes index tuples from the last dimension.
    Writing one element twice has no defined result in TensorRT; here the last write stays.
    """
    axis = layer.integer("axis", 0)
    mode = layer.choose("mode", {"ELEMENT": "ELEMENT", "ND": "ND"})

    def checked(index: np.ndarray, length: int) -> np.ndarray:
        wrapped, outside = _wrapped(index, length)
        if outside is not None:
            raise InvalidInputError(
                f"{layer} writes to index {index[outside].flat[0]} of a dimension of {length}; "
                "check the network's inputs"
            )
        return wrapped

    def elements(data: np.ndarray, index: np.ndarray, updates: np.ndarray) -> np.ndarray:
        out = data.copy()
        grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
        grid[axis] = checked(index, data.shape[axis])
        out[tuple(grid)] = updates
        return out

    def tuples(data: np.ndarray, index: np.ndarray, updates: np.ndarray) -> np.ndarray:
        out = data.copy()
        out[tuple(checked(index[..., i], data.shape[i]) for i in range(index.shape[-1]))] = updates
        return out

    return elements if mode == "ELEMENT" else tuples


@kernel("NON_ZERO")
def non_zero(layer: BoundLayer) -> Compute:
    """Positions of the non-zero elements as [rank, count], columns in lexical order."""
    dtype = layer.dtype.numpy
    return lambda x: np.asarray(np.nonzero(x), dtype)


@kernel("ONE_HOT")
def one_hot(layer: BoundLayer) -> Compute:
    """Inputs: indices, [off, on] values, depth. A dimension of ``depth`` is inserted at ``axis`` of the output."""
    axis = layer.integer("axis", -1)

    def compute(indices: np.ndarray, values: np.ndarray, depth: np.ndarray) -> np.ndarray:
        where = np.expand_dims(indices, axis)
        classes = np.arange(int(depth.reshape(())))
        classes = classes.reshape([-1 if d == axis % where.ndim else 1 for d in range(where.ndim)])
        return np.asarray(np.where(where == classes, values[1], values[0]))

    return compute


def _first_of(keys: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` smallest of many, sorted; of equal ones the first. Sorting all takes ten times as long."""
    limit = np.partition(keys, count - 1)[count - 1]
    if np.isnan(limit):
        return np.argsort(keys, kind="stable")[:count]
    candidates = np.flatnonzero(keys <= limit)
    return candidates[np.argsort(keys[candidates], kind="stable")[:count]]


@kernel("TOPK")
def topk(layer: BoundLayer) -> Compute:
    """The ``k`` largest (MAX) or smallest (MIN) elements along one axis, sorted, and their indices (``ITopKLayer``).

    Input 1, where set, replaces ``k``. Of equal elements the one with the lower index comes first.
    """
    largest = layer.choose("op", {"MAX": True, "MIN": False})
    axes, fixed = layer.axes(), layer.integer("k", -1)
    if len(axes) != 1:
        raise UnsupportedModelError(f"{layer} has axes {axes}, but a top-k takes one; capture the network again")
    axis, dynamic = axes[0], layer.has_input(1)
    floating, read = layer.input(0).dtype.is_floating, widening(layer.input(0).dtype)
    index_type = layer.outputs[1].dtype.numpy

    def compute(x: np.ndarray, k: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        count = int(k.reshape(())) if dynamic and k is not None else fixed
        keys = read(x) if floating else x.astype(np.int64)
        keys = -keys if largest else keys
        if isinstance(keys, np.ndarray) and axis == keys.ndim - 1 and 0 < 8 * count < keys.shape[-1]:
            rows = [_first_of(row, count) for row in keys.reshape(-1, keys.shape[-1])]
            order = np.array(rows).reshape(*keys.shape[:-1], count)
        else:
            order = np.argsort(keys, axis, kind="stable")[(slice(None),) * axis + (slice(0, count),)]
        return np.take_along_axis(x, order, axis), order.astype(index_type)

    return compute
