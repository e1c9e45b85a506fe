from __future__ import annotations

import numpy as np
import pytest
from building import NetworkBuilder, evaluate

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.network.reference import ReferenceEvaluator

IDENTITY = list(range(8))


def permutation(*order: int) -> list[int]:
    return [*order, *[0] * (8 - len(order))]


def test_shape(normal):
    value = evaluate("SHAPE", normal(2, 3, 5), dtype=DType.INT64, rank=1)
    assert value.tolist() == [2, 3, 5]


def test_shuffle_transposes_reshapes_transposes(normal):
    x = normal(2, 3, 4, 5)
    value = evaluate(
        "SHUFFLE", x, rank=3, first_transpose=permutation(0, 2, 1, 3), reshape_dims=[0, 0, -1],
        second_transpose=permutation(1, 0, 2), zero_is_placeholder=True,
    )  # fmt: skip
    np.testing.assert_array_equal(value, x.transpose(0, 2, 1, 3).reshape(2, 4, 15).transpose(1, 0, 2))


def test_shuffle_without_reshape_composes_both_transposes(normal):
    x = normal(2, 3, 4)
    for second in (IDENTITY, None):
        value = evaluate("SHUFFLE", x, first_transpose=permutation(1, 0, 2), reshape_dims=None, second_transpose=second)
        np.testing.assert_array_equal(value, x.transpose(1, 0, 2))
    value = evaluate("SHUFFLE", x, first_transpose=IDENTITY, second_transpose=permutation(2, 0, 1))
    np.testing.assert_array_equal(value, x.transpose(2, 0, 1))
    value = evaluate("SHUFFLE", x, first_transpose=permutation(1, 2, 0), second_transpose=permutation(2, 0, 1))
    np.testing.assert_array_equal(value, x.transpose(1, 2, 0).transpose(2, 0, 1))


@pytest.mark.parametrize("constant", [True, False])
def test_shuffle_takes_dimensions_from_its_second_input(normal, constant):
    x, dims = normal(2, 3, 4), np.array([0, -1])
    value = evaluate(
        "SHUFFLE", x, dims, rank=2, reshape_dims=None, zero_is_placeholder=True, constants=(1,) if constant else ()
    )
    np.testing.assert_array_equal(value, x.reshape(2, 12))


def test_shuffle_zero_that_is_no_placeholder(dtype):
    x = np.zeros((0, 3), dtype.numpy)
    assert evaluate("SHUFFLE", x, reshape_dims=[3, 0], zero_is_placeholder=False).shape == (3, 0)
    dims = np.array([3, 0])
    assert evaluate("SHUFFLE", x, dims, reshape_dims=None, zero_is_placeholder=False).shape == (3, 0)


@pytest.mark.parametrize("constants", [(), (1,)])
def test_squeeze_and_unsqueeze(normal, constants):
    x = normal(1, 3, 1, 4)
    value = evaluate("SQUEEZE", x, np.array([0, -2]), rank=2, constants=constants)
    np.testing.assert_array_equal(value, x.reshape(3, 4))
    value = evaluate("UNSQUEEZE", x, np.array([1, -1], np.int32), rank=6, constants=constants)
    assert value.shape == (1, 1, 3, 1, 4, 1)


def test_concatenation(normal):
    a, b, c = normal(2, 1, 3), normal(2, 4, 3), normal(2, 0, 3)
    np.testing.assert_array_equal(evaluate("CONCATENATION", a, b, c, axis=1), np.concatenate([a, b, c], 1))


def fill(dtype: DType, rank: int, *inputs: np.ndarray, **attributes) -> np.ndarray:
    padded = [*inputs, None, None, None][:3]
    return evaluate("FILL", *padded, dtype=dtype, rank=rank, operation="LINSPACE", **attributes)


def test_fill_linspace_of_the_header():
    value = fill(DType.INT32, 2, np.array([3, 4]), np.array(1, np.int32), np.array([100, 10], np.int32), shape=None)
    assert value.tolist() == [[1, 11, 21, 31], [101, 111, 121, 131], [201, 211, 221, 231]]


@pytest.mark.parametrize("dtype", [DType.INT32, DType.INT64, DType.FLOAT32])
def test_static_fill(dtype):
    assert fill(dtype, 1, shape=[4], alpha=2.0, beta=3.0).tolist() == [2, 5, 8, 11]


def test_fill_of_dynamic_shape_with_static_steps():
    assert fill(DType.INT64, 1, np.array([5]), shape=None, alpha=0.0, beta=1.0).tolist() == [0, 1, 2, 3, 4]


def test_random_fill_has_no_reference():
    with pytest.raises(UnsupportedModelError, match="operation RANDOM_UNIFORM"):
        evaluate("FILL", None, dtype=DType.FLOAT32, rank=1, operation="RANDOM_UNIFORM", shape=[3])


def test_assertion():
    builder = NetworkBuilder()
    builder.layers("ASSERTION", [builder.input("ok", DType.BOOL, (-1,))], [], message="sizes differ")
    evaluator = ReferenceEvaluator(builder.output())
    assert evaluator.run({"ok": np.array([True, True])}) == {}
    with pytest.raises(InvalidInputError, match="failed: sizes differ"):
        evaluator.run({"ok": np.array([True, False])})


SLICES = [
    ([1, 0], [1, 2], [1, 2]),
    ([0, 2], [2, 3], [2, -1]),  # a negative stride that ends at element 0
    ([1, 1], [4, 3], [0, 1]),  # stride 0 repeats
    ([0, 0], [0, 3], [1, 1]),
]


@pytest.mark.parametrize(("start", "size", "stride"), SLICES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_slice_within_bounds(normal, start, size, stride, dynamic):
    x = normal(4, 5)
    index = np.ix_(*(s + step * np.arange(n) for s, n, step in zip(start, size, stride, strict=True)))
    if dynamic:
        value = evaluate("SLICE", x, *map(np.array, (start, size, stride)), mode="STRICT_BOUNDS", constants=(1,))
    else:
        value = evaluate("SLICE", x, mode="STRICT_BOUNDS", start=start, shape=size, stride=stride)
    np.testing.assert_array_equal(value, x[index])


def test_slice_example_of_the_header_with_axes():
    x = np.array([[0, 2, 4], [1, 3, 5]])
    expected = [[2, 4], [3, 5]]
    assert evaluate("SLICE", x, start=[1], shape=[2], stride=[1], axes=[1]).tolist() == expected
    one = np.array([1])
    assert evaluate("SLICE", x, one, 2 * one, one, None, -one).tolist() == expected


def test_slice_beyond_strict_bounds_is_an_error():
    with pytest.raises(InvalidInputError, match=r"reads outside its input of shape \(3,\).*shape \[4\]"):
        evaluate("SLICE", np.zeros(3, np.float32), start=[0], shape=[4], stride=[1], mode="STRICT_BOUNDS")


@pytest.mark.parametrize(("mode", "pad"), [("WRAP", "wrap"), ("CLAMP", "edge"), ("REFLECT", "reflect")])
def test_slice_modes_are_paddings(normal, mode, pad):
    x = normal(3, 4)
    value = evaluate("SLICE", x, start=[-2, -3], shape=[8, 9], stride=[1, 1], mode=mode)
    np.testing.assert_array_equal(value, np.pad(x, ((2, 3), (3, 2)), pad))


def test_slice_fill(normal, dtype):
    x, fill_value = normal(3, 4), np.array(7, dtype.numpy)
    value = evaluate("SLICE", x, None, None, None, fill_value, start=[0, -1], shape=[4, 5], stride=[1, 1], mode="FILL")
    np.testing.assert_array_equal(value, np.pad(x, ((0, 1), (1, 0)), constant_values=dtype.numpy.type(7)))
    value = evaluate("SLICE", x, start=[-1, 0], shape=[4, 4], stride=[1, 1], mode="FILL")
    np.testing.assert_array_equal(value, np.pad(x, ((1, 0), (0, 0))))
