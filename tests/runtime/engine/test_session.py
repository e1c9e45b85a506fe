from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.runtime.fakes import FakeSession, contract, next_token
from tt_edge.contract import TensorSpec
from tt_edge.dtypes import DType
from tt_edge.errors import BundleError, CapacityError, InvalidInputError


def test_feeds_follow_the_contract():
    session = FakeSession(contract())
    session.reset(2)
    session.forward(np.array([[5, 6, 7], [8, 0, 0]]), np.array([3, 1]))
    session.forward(np.array([[1], [2]]), np.array([1, 1]))
    first, second = session.calls
    assert list(first) == ["input_ids", "position_ids", "write_indices", "last_token_indices"]
    assert first["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert first["last_token_indices"].tolist() == [2, 0]
    assert second["position_ids"].tolist() == [[3], [1]]
    assert second["write_indices"].tolist() == [3, 1]
    assert {name: str(value.dtype) for name, value in second.items()} == {
        "input_ids": "int64",
        "position_ids": "int64",
        "write_indices": "int32",
        "last_token_indices": "int64",
    }
    assert session.past_lengths.tolist() == [4, 2]


@pytest.mark.parametrize("full_logits", [False, True])
def test_logits_are_those_of_the_last_valid_token(full_logits):
    session = FakeSession(contract(full_logits=full_logits))
    session.reset(2)
    logits = session.forward(np.array([[5, 6, 7], [8, 9, 0]]), np.array([3, 2]))
    assert logits.dtype == np.float32
    assert logits.shape == (2, session.contract.vocab_size)
    assert logits.argmax(-1).tolist() == [next_token([5, 6, 7]), next_token([8, 9])]


def test_a_row_of_length_zero_keeps_its_past():
    session = FakeSession(contract())
    session.reset(2)
    session.forward(np.array([[5, 6], [7, 8]]), np.array([2, 2]))
    session.forward(np.array([[1], [2]]), np.array([0, 1]))
    assert session.past_lengths.tolist() == [2, 3]
    assert session.calls[-1]["last_token_indices"].tolist() == [0, 0]
    assert session.forward(np.array([[9], [9]]), np.array([1, 1])).argmax(-1)[0] == next_token([5, 6, 9])


def test_truncate_rewinds():
    session = FakeSession(contract())
    session.reset(1)
    session.forward(np.array([[5, 6, 7]]), np.array([3]))
    session.truncate([1])
    assert session.forward(np.array([[4]]), np.array([1])).argmax() == next_token([5, 4])
    with pytest.raises(InvalidInputError, match="rewind"):
        session.truncate([3])


def test_past_lengths_are_a_copy():
    session = FakeSession(contract())
    session.reset(1)
    session.past_lengths[0] = 5
    assert session.past_lengths.tolist() == [0]


@pytest.mark.parametrize("batch", [0, 4])
def test_batch_outside_the_limits(batch):
    with pytest.raises(CapacityError, match="max-batch"):
        FakeSession(contract()).reset(batch)


def test_limits_are_checked_before_anything_runs():
    session = FakeSession(contract(max_input_len=4, max_seq_len=6))
    session.reset(2)
    with pytest.raises(CapacityError, match="max_input_len 4"):
        session.forward(np.zeros((2, 5), np.int64), np.array([1, 1]))
    session.forward(np.zeros((2, 4), np.int64), np.array([4, 1]))
    with pytest.raises(CapacityError, match="slot 0 would hold 7 tokens"):
        session.forward(np.zeros((2, 3), np.int64), np.array([3, 3]))
    # Two valid tokens would fit row 0, their padding would not.
    with pytest.raises(CapacityError, match="slot 0 has 2 free places and 3 ids with padding"):
        session.forward(np.zeros((2, 3), np.int64), np.array([2, 3]))
    assert len(session.calls) == 1
    assert session.past_lengths.tolist() == [4, 1]


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [((1, 2), [1, 1]), ((2, 2), [1]), ((2, 2), [3, 1]), ((2, 2), [-1, 1]), ((2, 0), [0, 0]), ((2,), [1, 1])],
)
def test_shapes_that_do_not_fit(ids, lengths):
    session = FakeSession(contract())
    session.reset(2)
    with pytest.raises(InvalidInputError):
        session.forward(np.zeros(ids, np.int64), np.array(lengths))


def test_forward_needs_reset():
    with pytest.raises(InvalidInputError, match="reset"):
        FakeSession(contract()).forward(np.zeros((1, 1), np.int64), np.array([1]))


def test_an_unknown_input_is_refused():
    base = contract()
    spec = TensorSpec("token_type_ids", DType.INT64, ("batch", "sequence"))
    with pytest.raises(BundleError, match="token_type_ids"):
        FakeSession(dataclasses.replace(base, inputs=(spec, *base.inputs)))
