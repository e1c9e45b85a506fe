from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import Function, canonical, export, ops, run
from tt_edge.lowering.cleanup.join_slices import JoinSlices


@pytest.mark.parametrize(("part", "parts"), [(slice(1, None), 2), (slice(None, -1), 2), (slice(1, 3), 3)])
def test_what_is_written_to_a_part_stands_beside_the_rest(part, parts):
    """As in Gemma 3n, between two dynamic dimensions."""

    def f(_, x, y):
        return torch.slice_scatter(x, x[part] + y, 0, part.start, part.stop)

    x, y = torch.randn(4, 2, 5, 8), torch.randn(2, 5, 8)
    module = export(Function(f), x, y, dynamic={0: {1: "batch", 2: "sequence"}, 1: {0: "batch", 1: "sequence"}})
    canonical(module)
    want = module(x, y)
    assert ops(module)["aten.slice_scatter.default"] == 1
    assert run(JoinSlices(), module).matches == 1
    assert ops(module)["aten.slice_scatter.default"] == 0
    [joined] = module.graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default)
    assert len(joined.args[0]) == parts
    torch.testing.assert_close(module(x, y), want)


def test_every_other_place_stays_a_scatter():
    module = export(
        Function(lambda _, x, y: torch.slice_scatter(x, y, 0, 0, 4, 2)), torch.randn(4, 3), torch.randn(2, 3)
    )
    assert run(JoinSlices(), canonical(module)).matches == 0
