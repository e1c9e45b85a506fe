from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.fuse_shuffles import FuseShuffles

BS = {0: {0: "batch", 1: "sequence"}}


@pytest.mark.parametrize(
    ("name", "function", "shuffle"),
    [
        ("split heads", lambda _, x: x.view(*x.shape[:2], -1, 4).transpose(1, 2), ([0, 1, 2], [0, 0, 3, 4], [0, 2, 1, 3])),
        ("transpose", lambda _, x: x.transpose(1, 2), ([0, 2, 1], [0, 0, 0], [0, 1, 2])),
        ("unsqueeze", lambda _, x: x.unsqueeze(2), ([0, 1, 2], [0, 0, 1, 12], [0, 1, 2, 3])),
        ("flatten", lambda _, x: x.flatten(0, 1), ([0, 1, 2], [-1, 12], [0, 1])),
        ("there and back", lambda _, x: x.transpose(1, 2).transpose(1, 2), ([0, 1, 2], [0, 0, 0], [0, 1, 2])),
    ],
)  # fmt: skip
def test_becomes_one_shuffle(name, function, shuffle):
    x = torch.randn(2, 5, 12)
    module = canonical(export(Function(function), x, dynamic=BS))
    run(FuseShuffles(), module)
    (node,) = [n for n in module.graph.nodes if n.op == "call_function" and "sym_size" not in str(n.target)]
    assert tuple(node.args[1:]) == shuffle
    for size in [(2, 5), (1, 1), (3, 12)]:
        x = torch.randn(*size, 12)
        torch.testing.assert_close(module(x)[0], function(None, x), rtol=0, atol=0)


def test_dropping_a_dimension_is_no_permutation():
    """All sizes are copied, and yet it reshapes: it must not be merged as if it moved nothing."""
    x = torch.randn(4, 1)
    module = canonical(export(Function(lambda _, x: x.squeeze(1)[:, None].transpose(0, 1)), x, dynamic={0: {0: "b"}}))
    run(FuseShuffles(), module)
    torch.testing.assert_close(module(x)[0], x.T)
    module = canonical(export(Function(lambda _, x: x.squeeze(1)), x, dynamic={0: {0: "b"}}))
    run(FuseShuffles(), module)
    (node,) = [n for n in module.graph.nodes if n.op == "call_function"]
    assert tuple(node.args[1:]) == ([0, 1], [0], [0])


def test_merge_heads_after_a_transpose():
    x = torch.randn(2, 3, 5, 4)
    module = canonical(
        export(Function(lambda _, x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)), x, dynamic={0: {0: "b", 2: "s"}})
    )  # fmt: skip
    run(FuseShuffles(), module)
    assert ops(module) == {"tt_edge.shuffle.default": 1}
    (node,) = [n for n in module.graph.nodes if n.op == "call_function"]
    assert tuple(node.args[1:]) == ([0, 2, 1, 3], [0, 0, 12], [0, 1, 2])


def test_equal_example_sizes_are_not_taken_for_equal_dimensions():
    # Batch, sequence and heads are all 3 in the example; only batch may be copied from index 0.
    x = torch.randn(3, 3, 3)
    module = canonical(export(Function(lambda _, x: x.transpose(0, 1)), x, dynamic=BS))
    run(FuseShuffles(), module)
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(module(x)[0], x.transpose(0, 1), rtol=0, atol=0)
