"""ELEMENTWISE, UNARY, ACTIVATION, SELECT, CAST and IDENTITY: one output element per input position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.network.reference.numerics import erf, rounded, rounding, widening
from tt_edge.network.reference.registry import BoundLayer, Compute, kernel

Binary = Callable[[np.ndarray, np.ndarray], np.ndarray]
Function = Callable[[np.ndarray], np.ndarray]


def _divide_integers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C division: the quotient truncated towards zero."""
    quotient: np.ndarray = np.floor_divide(a, b)
    inexact_negative = (np.remainder(a, b) != 0) & ((a < 0) != (b < 0))
    quotient += inexact_negative
    return quotient


def _floor_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    quotient: np.ndarray = np.floor(np.divide(a, b))
    return quotient


_BINARY: dict[str, Binary] = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "SUB": np.subtract,
    "DIV": np.divide,
    "POW": np.power,
    "FLOOR_DIV": _floor_divide,
    "AND": np.logical_and,
    "OR": np.logical_or,
    "XOR": np.logical_xor,
    "EQUAL": np.equal,
    "GREATER": np.greater,
    "LESS": np.less,
}
_BINARY_INTEGER = _BINARY | {"DIV": _divide_integers, "FLOOR_DIV": np.floor_divide}


@kernel("ELEMENTWISE")
def elementwise(layer: BoundLayer) -> Compute:
    """``op(input 0, input 1)`` with broadcasting between tensors of one rank (NvInfer.h, ``ElementWiseOperation``).

    AND, OR, XOR take and give booleans; EQUAL, GREATER, LESS give booleans. DIV of integers truncates, FLOOR_DIV
    rounds down. Float types compute in float32 and round once, which for +, -, *, / is the type's own arithmetic.
    """
    dtype = layer.input(0).dtype
    if not dtype.is_floating:
        return layer.choose("op", _BINARY_INTEGER)
    operation = layer.choose("op", _BINARY)
    if dtype is DType.FLOAT32:
        return operation
    read_a, read_b = layer.reader(0), layer.reader(1)
    if layer.dtype is DType.BOOL:
        return lambda a, b: operation(read_a(a), read_b(b))
    compute = rounded(operation, layer.dtype)
    return lambda a, b: compute(read_a(a), read_b(b))


_UNARY: dict[str, Function] = {
    "EXP": np.exp,
    "LOG": np.log,
    "SQRT": np.sqrt,
    "RECIP": np.reciprocal,
    "ABS": np.absolute,
    "NEG": np.negative,
    "SIN": np.sin,
    "COS": np.cos,
    "TAN": np.tan,
    "SINH": np.sinh,
    "COSH": np.cosh,
    "ASIN": np.arcsin,
    "ACOS": np.arccos,
    "ATAN": np.arctan,
    "ASINH": np.arcsinh,
    "ACOSH": np.arccosh,
    "ATANH": np.arctanh,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "ERF": erf,
    "NOT": np.logical_not,
    "SIGN": np.sign,
    "ROUND": np.rint,
    "ISINF": np.isinf,
    "ISNAN": np.isnan,
}


@kernel("UNARY")
def unary(layer: BoundLayer) -> Compute:
    """``op(input 0)`` (NvInfer.h, ``UnaryOperation``). ROUND ties to even; ISINF, ISNAN and NOT give booleans."""
    operation, dtype = layer.choose("op", _UNARY), layer.input(0).dtype
    return _float_function(layer, operation) if dtype.is_floating else operation


def _float_function(layer: BoundLayer, function: Function) -> Compute:
    """``function`` in float32, its result rounded once to the output's type."""
    dtype = layer.input(0).dtype
    if dtype is DType.FLOAT32:
        return function
    read = widening(dtype)
    if layer.dtype is DType.BOOL:
        return lambda x: function(read(x))
    compute = rounded(function, layer.dtype)
    return lambda x: compute(read(x))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    inverse: np.ndarray = np.reciprocal(np.exp(-x) + np.float32(1))
    return inverse


_SQRT_HALF, _SQRT_2_OVER_PI = np.float32(np.sqrt(0.5)), np.float32(np.sqrt(2 / np.pi))
_HALF, _ONE, _GELU_CUBE = np.float32(0.5), np.float32(1), np.float32(0.044715)


def _activations(a: np.float32, b: np.float32) -> dict[str, Function]:
    """The activation functions for parameters alpha = ``a`` and beta = ``b`` (NvInfer.h, ``ActivationType``)."""
    return {
        "RELU": lambda x: np.maximum(x, np.float32(0)),
        "SIGMOID": _sigmoid,
        "TANH": np.tanh,
        "LEAKY_RELU": lambda x: np.where(x >= 0, x, a * x),
        "ELU": lambda x: np.where(x >= 0, x, a * np.expm1(x)),
        "SELU": lambda x: np.where(x > 0, b * x, b * a * np.expm1(x)),
        "SOFTSIGN": lambda x: x / (_ONE + np.abs(x)),
        "SOFTPLUS": lambda x: a * np.logaddexp(b * x, np.float32(0)),
        "CLIP": lambda x: np.maximum(a, np.minimum(b, x)),
        "HARD_SIGMOID": lambda x: np.clip(a * x + b, np.float32(0), _ONE),
        "SCALED_TANH": lambda x: a * np.tanh(b * x),
        "THRESHOLDED_RELU": lambda x: np.where(x > a, x, np.float32(0)),
        "GELU_ERF": lambda x: _HALF * x * (_ONE + erf(_SQRT_HALF * x)),
        "GELU_TANH": lambda x: _HALF * x * (_ONE + np.tanh(_SQRT_2_OVER_PI * (_GELU_CUBE * x * x * x + x))),
    }


@kernel("ACTIVATION")
def activation(layer: BoundLayer) -> Compute:
    """The activation ``type`` of input 0, with ``alpha`` and ``beta`` where it has parameters."""
    alpha, beta = np.float32(layer.number("alpha", 0.0)), np.float32(layer.number("beta", 0.0))
    return _float_function(layer, layer.choose("type", _activations(alpha, beta)))


@kernel("SELECT")
def select(layer: BoundLayer) -> Compute:
    """``input 1 where input 0 else input 2``, broadcast, as ``numpy.where`` (NvInfer.h, ``ISelectLayer``)."""
    return np.where


@kernel("CAST")
def cast(layer: BoundLayer) -> Compute:
    """Input 0 in the output's type: floats truncate towards zero to integers, and anything but zero is true.

    A float beyond the integer type's range has no defined result in TensorRT, nor here.
    """
    source, target = layer.input(0).dtype, layer.dtype
    if source is target:
        return lambda x: x
    if source.is_floating and target.is_floating:
        read, write = widening(source), rounding(target)
        return lambda x: write(read(x))
    if target is DType.BOOL:
        return lambda x: x != 0
    numpy_type = target.numpy
    if not source.is_floating:
        return lambda x: x.astype(numpy_type)
    read = widening(source)
    return lambda x: read(x).astype(numpy_type)


@kernel("IDENTITY")
def identity(layer: BoundLayer) -> Compute:
    """Input 0 unchanged; in a strongly typed network the types agree, otherwise it is a cast."""
    return cast(layer)
