from __future__ import annotations

import numpy as np
import pytest
from building import NetworkBuilder

from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError, ParityError
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.reference.compare import compare_layers, compare_tensors, difference, record


def test_measures():
    row = difference("t", np.array([3.0, 4.0, 1.0]), np.array([3.0, 3.5, 1.0]))
    assert row.max_abs == 0.5
    assert row.relative_l2 == pytest.approx(0.5 / np.sqrt(9 + 12.25 + 1))
    assert row.mismatched == 0
    assert row.within(0.2)
    assert not row.within(0.1)


def test_equal_nan_and_infinity_match_and_others_are_counted():
    value = np.array([np.nan, np.inf, -np.inf, np.nan, 1.0, 2.0], np.float16)
    reference = np.array([np.nan, np.inf, np.inf, 0.0, np.nan, 2.0], np.float32)
    row = difference("t", value, reference)
    assert (row.mismatched, row.max_abs, row.relative_l2) == (3, 0.0, 0.0)
    assert not row.within(1.0)


def test_zero_reference_and_empty_tensors():
    assert difference("t", np.zeros(3), np.zeros(3)).relative_l2 == 0
    assert difference("t", np.ones(3), np.zeros(3)).relative_l2 == np.inf
    assert difference("t", np.zeros(0), np.zeros(0)).within(0)
    assert difference("t", np.array([True]), np.array([False])).max_abs == 1


def test_shapes_must_agree():
    with pytest.raises(ParityError, match=r"tensor 't' has shape \(2,\) but its reference has \(3,\)"):
        difference("t", np.zeros(2), np.zeros(3))


def network():
    builder = NetworkBuilder()
    x = builder.input("x", DType.FLOAT32, (-1,))
    names = [x]
    for op in ("EXP", "NEG", "ABS"):
        names.append(builder.layer("UNARY", [names[-1]], DType.FLOAT32, (-1,), op=op))
    return builder.output(names[-1]), names[1:]


def test_first_layer_over_tolerance_in_execution_order(rng):
    graph, names = network()
    evaluator, feeds = ReferenceEvaluator(graph), {"x": rng.standard_normal(9).astype(np.float32)}
    references = record(evaluator, feeds)
    assert list(references) == names
    assert compare_layers(evaluator, feeds, references, 0.0).passed
    for name in names[1:]:
        references[name] = references[name] * 1.01
    comparison = compare_layers(evaluator, feeds, dict(reversed(references.items())), 1e-3)
    assert [row.tensor for row in comparison.rows] == names
    assert comparison.first_over is not None
    assert comparison.first_over.layer == "unary_1"
    lines = comparison.render().splitlines()
    assert lines[0].split() == ["layer", "kind", "tensor", "type", "shape", "max", "abs", "rel", "L2", "mismatched"]
    assert [line.split()[-1] for line in lines[1:4]] == ["0", "<<", "<"]
    assert lines[-1] == (
        "3 tensors compared, 2 over the relative L2 tolerance of 0.001; the first is 'unary_1.0' of layer 'unary_1'"
    )
    assert len(comparison.render(only_over=True).splitlines()) == 4


def test_compare_tensors_needs_something_in_common():
    comparison = compare_tensors({"a": np.ones(2), "b": np.ones(2)}, {"b": np.ones(2)}, 0.0)
    assert [row.tensor for row in comparison.rows] == ["b"]
    assert comparison.worst is comparison.rows[0]
    with pytest.raises(InvalidInputError, match=r"no tensor is in both evaluations \(a against b\)"):
        compare_tensors({"a": np.ones(2)}, {"b": np.ones(2)}, 0.0)
