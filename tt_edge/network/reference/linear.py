"""MATRIX_MULTIPLY and EINSUM: products on BLAS in float32, rounded once."""

from __future__ import annotations

import numpy as np

from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

_OPERATIONS = {"NONE": "NONE", "TRANSPOSE": "TRANSPOSE", "VECTOR": "VECTOR"}


def _first(x: np.ndarray, operation: str) -> np.ndarray:
    """``op0(x)`` as a stack of matrices; a vector is a row."""
    if operation == "VECTOR":
        return x[..., None, :]
    return x.swapaxes(-1, -2) if operation == "TRANSPOSE" else x


def _second(x: np.ndarray, operation: str) -> np.ndarray:
    """``op1(x)`` as a stack of matrices; a vector is a column."""
    if operation == "VECTOR":
        return x[..., None]
    return x.swapaxes(-1, -2) if operation == "TRANSPOSE" else x


@kernel("MATRIX_MULTIPLY")
def matrix_multiply(layer: BoundLayer) -> Compute:
    """``op0(input 0) @ op1(input 1)``, batch dimensions broadcast (NvInfer.h, ``IMatrixMultiplyLayer``).

    TRANSPOSE swaps the last two dimensions. VECTOR makes the last dimension a row (input 0) or column (input 1)
    vector, which has no dimension of its own in the output.
    """
    op0, op1 = layer.choose("op0", _OPERATIONS, "NONE"), layer.choose("op1", _OPERATIONS, "NONE")
    write = layer.writer()
    weight = layer.constant_float32(1)
    read_a = layer.reader(0)
    if weight is not None and op0 == "NONE" and op1 != "VECTOR" and weight.size == weight.shape[-1] * weight.shape[-2]:
        return _linear(layer, _second(weight, op1).reshape(_second(weight, op1).shape[-2:]))
    read_b = layer.reader(1)
    vectors = tuple(axis for axis, operation in ((-2, op0), (-1, op1)) if operation == "VECTOR")

    def compute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        product = np.matmul(_first(read_a(a), op0), _second(read_b(b), op1))
        return write(np.squeeze(product, vectors) if vectors else product)

    return compute


def _linear(layer: BoundLayer, weight: np.ndarray) -> Compute:
    """One product with a constant ``weight`` [K, N] for all rows of all batches, instead of one per batch."""
    read, write, columns = layer.reader(0), layer.writer(), weight.shape[1]

    def compute(x: np.ndarray, _: np.ndarray) -> np.ndarray:
        product = np.dot(read(x).reshape(-1, x.shape[-1]), weight)
        return write(product).reshape(*x.shape[:-1], columns)

    return compute


@kernel("EINSUM")
def einsum(layer: BoundLayer) -> Compute:
    """Einstein summation by ``equation``, with NumPy's meaning of implicit outputs, diagonals and ``...``."""
    equation = str(layer.attribute("equation")).replace(" ", "")
    readers = [layer.reader(index) for index in range(len(layer.inputs))]
    write = layer.writer()

    def compute(*operands: np.ndarray) -> np.ndarray:
        wide = [read(operand) for read, operand in zip(readers, operands, strict=True)]
        return write(np.einsum(equation, *wide, optimize=len(wide) > 1))

    return compute
