from __future__ import annotations

import math

import numpy as np
import pytest
from building import evaluate
from oracle import TYPES, assert_rounded, to_numpy, to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.errors import UnsupportedModelError
from tt_edge.network.reference.numerics import erf

FLOAT_OPERATIONS = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "SUB": torch.sub,
    "DIV": torch.div,
    "FLOOR_DIV": lambda a, b: torch.floor(a.float() / b.float()).to(a.dtype),
}


@pytest.mark.parametrize("op", FLOAT_OPERATIONS)
def test_float_arithmetic_rounds_once(op, normal, dtype):
    a, b = normal(3, 1, 5), normal(1, 4, 5)
    expected = FLOAT_OPERATIONS[op](to_torch(a), to_torch(b))
    for constants in ((), (1,)):
        value = evaluate("ELEMENTWISE", a, b, op=op, constants=constants)
        np.testing.assert_array_equal(value.astype(np.float64), to_numpy(expected))


def test_power(normal, dtype):
    a, b = np.abs(normal(4, 5)) + dtype.numpy.type(0.5), normal(4, 5)
    assert_rounded(evaluate("ELEMENTWISE", a, b, op="POW"), to_torch(a, True) ** to_torch(b, True), 2)


@pytest.mark.parametrize("op", ["EQUAL", "GREATER", "LESS"])
def test_comparisons_give_booleans(op, rng, dtype):
    a = rng.integers(0, 3, (6, 7)).astype(dtype.numpy)
    b = rng.integers(0, 3, (6, 7)).astype(dtype.numpy)
    expected = {"EQUAL": a == b, "GREATER": a > b, "LESS": a < b}[op]
    np.testing.assert_array_equal(evaluate("ELEMENTWISE", a, b, op=op, dtype=DType.BOOL), expected)


@pytest.mark.parametrize("op", ["AND", "OR", "XOR"])
def test_logic(op, rng):
    a, b = rng.random((5, 5)) < 0.5, rng.random((5, 5)) < 0.5
    expected = {"AND": a & b, "OR": a | b, "XOR": a ^ b}[op]
    np.testing.assert_array_equal(evaluate("ELEMENTWISE", a, b, op=op), expected)


@pytest.mark.parametrize("integer", [DType.INT32, DType.INT64])
def test_integer_division_truncates_and_floor_division_floors(integer, rng):
    a = rng.integers(-20, 20, 200).astype(integer.numpy)
    b = rng.choice([-7, -3, -1, 1, 2, 5], 200).astype(integer.numpy)
    truncated = [math.trunc(x / y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(evaluate("ELEMENTWISE", a, b, op="DIV"), truncated)
    np.testing.assert_array_equal(evaluate("ELEMENTWISE", a, b, op="FLOOR_DIV"), a // b)


def test_integer_sum_keeps_its_type(rng):
    a = rng.integers(-5, 5, (4,), dtype=np.int32)
    np.testing.assert_array_equal(evaluate("ELEMENTWISE", a, a, op="SUM"), 2 * a)


UNARY = {
    "EXP": torch.exp, "LOG": torch.log, "SQRT": torch.sqrt, "RECIP": torch.reciprocal, "ABS": torch.abs,
    "NEG": torch.neg, "SIN": torch.sin, "COS": torch.cos, "TAN": torch.tan, "SINH": torch.sinh, "COSH": torch.cosh,
    "ASIN": torch.asin, "ACOS": torch.acos, "ATAN": torch.atan, "ASINH": torch.asinh, "ACOSH": torch.acosh,
    "ATANH": torch.atanh, "CEIL": torch.ceil, "FLOOR": torch.floor, "ERF": torch.erf, "SIGN": torch.sign,
    "ROUND": torch.round,
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
def test_unary(op, rng, dtype):
    low, high = {"ACOSH": (1.1, 4), "LOG": (0.1, 4), "SQRT": (0, 4)}.get(op, (-0.9, 0.9))
    if op in ("CEIL", "FLOOR", "ROUND", "SIGN", "ABS", "NEG"):
        low, high = -4, 4
    x = rng.uniform(low, high, (5, 6)).astype(dtype.numpy)
    x = np.where(x == 0, dtype.numpy.type(0.5), x).astype(dtype.numpy)
    assert_rounded(evaluate("UNARY", x, op=op), UNARY[op](to_torch(x, True)))


def test_unary_predicates(dtype):
    x = np.array([np.inf, -np.inf, np.nan, 1.0]).astype(dtype.numpy)
    assert evaluate("UNARY", x, op="ISINF", dtype=DType.BOOL).tolist() == [True, True, False, False]
    assert evaluate("UNARY", x, op="ISNAN", dtype=DType.BOOL).tolist() == [False, False, True, False]
    assert evaluate("UNARY", np.array([True, False]), op="NOT").tolist() == [False, True]


def test_round_ties_to_even(dtype):
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5]).astype(dtype.numpy)
    assert evaluate("UNARY", x, op="ROUND").tolist() == [0, 2, 2, 0, -2]


def test_integer_unary(rng):
    x = rng.integers(-9, 9, 20)
    np.testing.assert_array_equal(evaluate("UNARY", x, op="NEG"), -x)


def test_erf_matches_the_c_library():
    x = np.concatenate([np.linspace(-6, 6, 4001), [0.0, np.inf, -np.inf, 0.46875, 4.0]]).astype(np.float32)
    expected = np.array([math.erf(v) for v in x.tolist()], np.float32)
    np.testing.assert_allclose(erf(x), expected, rtol=2**-23, atol=0)
    assert np.isnan(erf(np.array([np.nan], np.float32)))[0]


A, B = 0.75, 1.25
ACTIVATIONS = {
    "RELU": torch.relu,
    "SIGMOID": torch.sigmoid,
    "TANH": torch.tanh,
    "LEAKY_RELU": lambda x: torch.nn.functional.leaky_relu(x, A),
    "ELU": lambda x: torch.nn.functional.elu(x, A),
    "SELU": lambda x: torch.where(x > 0, B * x, B * (A * torch.exp(x) - A)),
    "SOFTSIGN": torch.nn.functional.softsign,
    "SOFTPLUS": lambda x: A * torch.log(torch.exp(B * x) + 1),
    "CLIP": lambda x: torch.clamp(x, A, B),
    "HARD_SIGMOID": lambda x: torch.clamp(A * x + B, 0, 1),
    "SCALED_TANH": lambda x: A * torch.tanh(B * x),
    "THRESHOLDED_RELU": lambda x: torch.where(x > A, x, torch.zeros_like(x)),
    "GELU_ERF": torch.nn.functional.gelu,
    "GELU_TANH": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(kind, normal):
    x = normal(7, 9) * 2
    value = evaluate("ACTIVATION", x, type=kind, alpha=A, beta=B)
    assert_rounded(value, ACTIVATIONS[kind](to_torch(x, True)), 2)


def test_sigmoid_saturates(dtype):
    x = np.array([-1e4, 0, 1e4]).astype(dtype.numpy)
    assert evaluate("ACTIVATION", x, type="SIGMOID").tolist() == [0, 0.5, 1]


def test_unknown_enum_names_layer_attribute_and_value():
    with pytest.raises(UnsupportedModelError, match=r"\(ACTIVATION\) has type MISH"):
        evaluate("ACTIVATION", np.zeros(3, np.float32), type="MISH")


def test_select_broadcasts(rng, normal, dtype):
    condition, a, b = rng.random((1, 1, 5, 9)) < 0.5, normal(1, 1, 5, 9), normal(1, 3, 1, 9)
    value = evaluate("SELECT", condition, a, b, dtype=dtype)
    np.testing.assert_array_equal(value, np.where(condition, a, b))


@pytest.mark.parametrize("target", [*TYPES])
@pytest.mark.parametrize("source", [*TYPES])
def test_cast(source, target, rng):
    x = (rng.standard_normal((4, 5)) * 9).astype(np.float32).astype(source.numpy)
    value = evaluate("CAST", x, dtype=target, to_type=target.value)
    expected = to_torch(x).to(TYPES[target])
    np.testing.assert_array_equal(value.astype(np.float64), to_numpy(expected).astype(np.float64))


def test_float_to_integer_truncates():
    x = np.array([-2.7, -0.5, 0.5, 2.7], np.float32)
    assert evaluate("CAST", x, dtype=DType.INT32, to_type="int32").tolist() == [-2, 0, 0, 2]


def test_identity(normal):
    x = normal(3, 4)
    np.testing.assert_array_equal(evaluate("IDENTITY", x), x)
