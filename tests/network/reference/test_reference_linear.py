from __future__ import annotations

import numpy as np
import pytest
from building import NetworkBuilder, evaluate
from oracle import assert_rounded, to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.network.reference import ReferenceEvaluator


def matmul(a, b, op0="NONE", op1="NONE", rank=None, constants=()):
    return evaluate("MATRIX_MULTIPLY", a, b, op0=op0, op1=op1, rank=rank, constants=constants)


@pytest.mark.parametrize("constants", [(), (1,), (0,), (0, 1)])
@pytest.mark.parametrize("op1", ["NONE", "TRANSPOSE"])
@pytest.mark.parametrize("op0", ["NONE", "TRANSPOSE"])
def test_transposes(normal, op0, op1, constants):
    a, b = normal(2, 3, 40), normal(1, 40, 5)
    expected = to_torch(a, True) @ to_torch(b, True)
    a = a.swapaxes(1, 2).copy() if op0 == "TRANSPOSE" else a
    b = b.swapaxes(1, 2).copy() if op1 == "TRANSPOSE" else b
    assert_rounded(matmul(a, b, op0, op1, constants=constants), expected, scale=20)


def test_batch_dimensions_broadcast(normal):
    a, b = normal(2, 1, 3, 8), normal(1, 4, 8, 5)
    assert_rounded(matmul(a, b), to_torch(a, True) @ to_torch(b, True), scale=10)


def test_constant_with_a_real_batch(normal):
    a, b = normal(4, 3, 8), normal(4, 8, 5)
    assert_rounded(matmul(a, b, constants=(1,)), to_torch(a, True) @ to_torch(b, True), scale=10)


def test_vectors(normal):
    a, b, matrix = normal(6, 8), normal(6, 8), normal(6, 8, 5)
    wide_a, wide_b, wide_matrix = (to_torch(t, True) for t in (a, b, matrix))
    value = matmul(a, matrix, "VECTOR", "NONE", rank=2)
    assert_rounded(value, (wide_a[:, None] @ wide_matrix)[:, 0], scale=10)
    value = matmul(matrix, a, "TRANSPOSE", "VECTOR", rank=2)
    assert_rounded(value, (wide_matrix.mT @ wide_a[..., None])[..., 0], scale=10)
    assert_rounded(matmul(a, b, "VECTOR", "VECTOR", rank=1), (wide_a * wide_b).sum(1), scale=10)
    assert_rounded(matmul(a[0], matrix[0], "VECTOR", "NONE", rank=1), wide_a[0] @ wide_matrix[0], scale=10)


def test_products_accumulate_in_float32():
    a, b = np.ones((1, 1, 4096), np.float16), np.ones((1, 4096, 1), np.float16)
    a[0, 0, 0] = 4096  # float16 partial sums would lose every further 1
    assert matmul(a, b).tolist() == [[[8192.0]]]


def test_weights_over_the_byte_budget_give_the_same_result(rng):
    weight = rng.standard_normal((1, 300, 200)).astype(np.float16)
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT16, (-1, -1, 200))
    y = builder.layer(
        "MATRIX_MULTIPLY", [x, builder.constant(weight)], DType.FLOAT16, (-1, -1, 300), op0="NONE", op1="TRANSPOSE"
    )
    network = builder.output(y)
    feeds = {"x": rng.standard_normal((2, 3, 200)).astype(np.float16)}
    cached, converted = (ReferenceEvaluator(network, constant_bytes=size).run(feeds)[y] for size in (1 << 30, 0))
    np.testing.assert_allclose(cached.astype(np.float32), converted.astype(np.float32), rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ik,kj->ij", [(3, 4), (4, 5)]),
        ("bhsd,bhtd->bhst", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("i,i->", [(7,), (7,)]),
        ("...ii->...i", [(2, 4, 4)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]),
    ],
)
def test_einsum(normal, equation, shapes):
    operands = [normal(*shape) for shape in shapes]
    expected = torch.einsum(equation, *(to_torch(t, True) for t in operands))
    assert_rounded(evaluate("EINSUM", *operands, equation=equation, rank=expected.ndim), expected, scale=10)
