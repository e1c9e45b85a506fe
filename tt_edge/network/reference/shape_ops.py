"""SHAPE, SHUFFLE, SQUEEZE, UNSQUEEZE, CONCATENATION, FILL and ASSERTION: layout and shape arithmetic."""

from __future__ import annotations

import numpy as np

from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel


@kernel("SHAPE")
def shape(layer: BoundLayer) -> Compute:
    """The dimensions of input 0 as int64 [rank]."""
    return lambda x: np.array(x.shape, np.int64)


def _permutation(layer: BoundLayer, name: str, rank: int) -> tuple[int, ...] | None:
    """Permutation attribute ``name`` for tensors of ``rank``, ``None`` if it changes nothing.

    TensorRT's permutations always have eight entries, of which the first ``rank`` count.
    """
    order = layer.dims(name)
    if order is None or order[:rank] == tuple(range(rank)):
        return None
    return order[:rank]


def _transposes(first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> Compute:
    """Both transposes with no reshape between them."""
    if first is None or second is None:
        order = first or second
        return lambda x: x if order is None else x.transpose(order)
    both = tuple(first[axis] for axis in second)
    return lambda x: x.transpose(both)


@kernel("SHUFFLE")
def shuffle(layer: BoundLayer) -> Compute:
    """Transpose, reshape, transpose (NvInfer.h, ``IShuffleLayer``).

    In the reshape dimensions (attribute, or input 1 if set) -1 is inferred and, unless ``zero_is_placeholder`` is
    off, 0 copies the dimension at that position of the tensor as it stands after the first transpose.
    """
    first = _permutation(layer, "first_transpose", len(layer.input(0).shape))
    second = _permutation(layer, "second_transpose", len(layer.outputs[0].shape))
    dims, placeholder = layer.dims("reshape_dims"), layer.flag("zero_is_placeholder", True)
    dynamic = layer.has_input(1)
    if dynamic:
        known = layer.constant(1)
        dims = None if known is None else tuple(known.tolist())
    if dims is None and not dynamic:
        return _transposes(first, second)
    copied = tuple(axis for axis, size in enumerate(dims or ()) if size == 0) if placeholder else ()

    def compute(x: np.ndarray, requested: np.ndarray | None = None) -> np.ndarray:
        if first is not None:
            x = x.transpose(first)
        if dims is not None:
            size = dims
            for axis in copied:
                size = (*size[:axis], x.shape[axis], *size[axis + 1 :])
        else:
            assert requested is not None
            size = tuple(requested.tolist())
            if placeholder:
                size = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(size))
        x = x.reshape(size)
        return x if second is None else x.transpose(second)

    return compute


@kernel("SQUEEZE")
def squeeze(layer: BoundLayer) -> Compute:
    """Input 0 without the unit dimensions at the axes of input 1."""
    known = layer.constant(1)
    if known is not None:
        axes = tuple(known.reshape(-1).tolist())
        return lambda x, _: np.squeeze(x, axes)
    return lambda x, axes: np.squeeze(x, tuple(axes.tolist()))


@kernel("UNSQUEEZE")
def unsqueeze(layer: BoundLayer) -> Compute:
    """Input 0 with unit dimensions inserted; input 1 holds their axes in the output."""
    known = layer.constant(1)
    if known is not None:
        axes = tuple(known.reshape(-1).tolist())
        return lambda x, _: np.expand_dims(x, axes)
    return lambda x, axes: np.expand_dims(x, tuple(axes.tolist()))


@kernel("CONCATENATION")
def concatenation(layer: BoundLayer) -> Compute:
    """The inputs joined along ``axis``."""
    axis = layer.integer("axis", max(len(layer.input(0).shape) - 3, 0))
    return lambda *parts: np.concatenate(parts, axis)


@kernel("FILL")
def fill(layer: BoundLayer) -> Compute:
    """LINSPACE: ``alpha + sum(beta[d] * index[d])`` over an output of ``shape`` (NvInfer.h, ``FillOperation``).

    Inputs 0, 1 and 2, where set, replace the attributes ``shape``, ``alpha`` (a scalar) and ``beta`` (one step per
    dimension). Integer outputs are computed in integers, others in float32. The random fills are not deterministic
    in TensorRT and so have no reference.
    """
    layer.choose("operation", {"LINSPACE": None})
    dtype = layer.dtype.numpy
    work = np.dtype(np.float32) if layer.dtype.is_floating else np.dtype(np.int64)
    static_shape = layer.dims("shape")
    alpha, beta = layer.number("alpha", 0.0), layer.number("beta", 1.0)
    if static_shape is None and not layer.has_input(0):
        raise UnsupportedModelError(f"{layer} has neither a shape nor input 0; capture the network again")

    def compute(
        dims: np.ndarray | None = None, start: np.ndarray | None = None, step: np.ndarray | None = None
    ) -> np.ndarray:
        size = static_shape if dims is None else tuple(dims.tolist())
        assert size is not None
        first = work.type(alpha) if start is None else start.reshape(()).astype(work)
        steps = np.atleast_1d(np.asarray(beta if step is None else step).astype(work))
        total = np.full(size, first, work)
        for axis, delta in enumerate(steps):
            ramp = np.arange(size[axis], dtype=work) * delta
            total += ramp.reshape([-1 if d == axis else 1 for d in range(len(size))])
        return total.astype(dtype, copy=False)

    return compute


@kernel("ASSERTION")
def assertion(layer: BoundLayer) -> Compute:
    """Raises ``InvalidInputError`` with the layer's ``message`` unless every element of input 0 is true."""
    message = str(layer.layer.attributes.get("message") or "no message")

    def compute(condition: np.ndarray) -> tuple[np.ndarray, ...]:
        if not np.all(condition):
            raise InvalidInputError(f"{layer} failed: {message}; check the shapes of the network's inputs")
        return ()

    return compute
