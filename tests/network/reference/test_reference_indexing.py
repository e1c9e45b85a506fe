from __future__ import annotations

import numpy as np
import pytest
from building import evaluate, evaluate_all
from oracle import to_numpy, to_torch, torch

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError


def gather(data, index, rank, **attributes):
    attributes = {"mode": "DEFAULT", "axis": 0, "num_elementwise_dims": 0} | attributes
    return evaluate("GATHER", data, index, rank=rank, **attributes)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_replaces_the_axis_by_the_index_dimensions(rng, normal, axis):
    data = normal(4, 5, 6)
    index = rng.integers(0, data.shape[axis], (2, 3), dtype=np.int32)
    np.testing.assert_array_equal(gather(data, index, 4, axis=axis), np.take(data, index, axis))
    np.testing.assert_array_equal(gather(data, np.array(1), 2, axis=axis), np.take(data, 1, axis))


def test_gather_counts_negative_indices_from_the_end_and_reads_zero_out_of_bounds(normal):
    data = normal(4, 3)
    value = gather(data, np.array([[-1, 4], [0, -5]]), 3)
    np.testing.assert_array_equal(value, [[data[3], 0 * data[0]], [data[0], 0 * data[0]]])


def test_gather_matches_one_elementwise_dimension(rng, normal):
    data, index = normal(3, 5, 7), rng.integers(0, 7, (3, 2))
    value = gather(data, index, 3, axis=2, num_elementwise_dims=1)
    np.testing.assert_array_equal(value, np.stack([np.take(data[b], index[b], 1) for b in range(3)]))
    broadcast = gather(data[:1], index, 3, axis=2, num_elementwise_dims=1)
    np.testing.assert_array_equal(broadcast, np.stack([np.take(data[0], index[b], 1) for b in range(3)]))


@pytest.mark.parametrize("axis", [0, 1])
def test_gather_elements(rng, normal, axis):
    data = normal(4, 5)
    index = rng.integers(0, data.shape[axis], (3, 5) if axis == 0 else (4, 2))
    value = gather(data, index, 2, axis=axis, mode="ELEMENT")
    np.testing.assert_array_equal(
        value.astype(np.float64), to_numpy(torch.gather(to_torch(data), axis, to_torch(index)))
    )


def test_gather_nd(rng, normal):
    data = normal(4, 5, 6)
    index = np.stack([rng.integers(0, 4, (2, 3)), rng.integers(0, 5, (2, 3))], -1)
    np.testing.assert_array_equal(gather(data, index, 3, mode="ND"), data[index[..., 0], index[..., 1]])
    batched = rng.integers(0, 5, (4, 2, 1))
    value = gather(data, batched, 3, mode="ND", num_elementwise_dims=1)
    np.testing.assert_array_equal(value, np.stack([data[b, batched[b, :, 0]] for b in range(4)]))
    index[0, 0] = [4, 0]
    assert not gather(data, index, 3, mode="ND")[0, 0].any()


def test_scatter_elements(rng, normal):
    data, updates = normal(4, 5), normal(2, 5)
    index = np.argsort(rng.random((4, 5)), 0)[:2]
    value = evaluate("SCATTER", data, index, updates, mode="ELEMENT", axis=0)
    expected = to_torch(data).scatter(0, to_torch(index), to_torch(updates))
    np.testing.assert_array_equal(value.astype(np.float64), to_numpy(expected))
    np.testing.assert_array_equal(data, np.array(data))


def test_scatter_nd_copies_its_data(normal):
    data, updates = normal(4, 5), normal(2, 5)
    before = data.copy()
    value = evaluate("SCATTER", data, np.array([[3], [-4]]), updates, mode="ND")
    np.testing.assert_array_equal(data, before)
    np.testing.assert_array_equal(value, [updates[1], data[1], data[2], updates[0]])


def test_scatter_out_of_bounds_names_the_index():
    with pytest.raises(InvalidInputError, match="writes to index 9 of a dimension of 4"):
        evaluate("SCATTER", np.zeros((4, 1), np.int64), np.array([[9]]), np.zeros((1, 1), np.int64), mode="ND")


@pytest.mark.parametrize("indices", [DType.INT32, DType.INT64])
def test_non_zero(rng, indices):
    x = rng.random((3, 4, 5)) < 0.3
    value = evaluate("NON_ZERO", x, dtype=indices, rank=2, indices_type=indices.value)
    np.testing.assert_array_equal(value.T, np.argwhere(x))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(rng, axis):
    indices, values = rng.integers(0, 6, (3, 4)).astype(np.int32), np.array([0.5, 2.0], np.float32)
    value = evaluate("ONE_HOT", indices, values, np.array(6), dtype=DType.FLOAT32, rank=3, axis=axis)
    expected = np.moveaxis(np.where(np.eye(6)[indices] == 1, 2.0, 0.5), -1, axis)
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("op", ["MAX", "MIN"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_topk(rng, dtype, op, dynamic):
    x = rng.permutation(60).reshape(3, 5, 4).astype(dtype.numpy)
    k = np.array(3, np.int32) if dynamic else None
    values, indices = evaluate_all(
        "TOPK", [x, k], [(dtype, 3), (DType.INT32, 3)], op=op, axes=2, k=-1 if dynamic else 3, indices_type="int32"
    )
    expected = torch.topk(to_torch(x), 3, 1, largest=op == "MAX")
    np.testing.assert_array_equal(values.astype(np.float64), to_numpy(expected.values))
    np.testing.assert_array_equal(indices, to_numpy(expected.indices))


def test_topk_prefers_the_lower_index_on_ties():
    x = np.array([1, 2, 2, 1], np.float32)
    outputs = [(DType.FLOAT32, 1), (DType.INT64, 1)]
    assert evaluate_all("TOPK", [x], outputs, op="MAX", axes=1, k=4)[1].tolist() == [1, 2, 0, 3]
    assert evaluate_all("TOPK", [x], outputs, op="MIN", axes=1, k=4)[1].tolist() == [0, 3, 1, 2]
