from __future__ import annotations

import operator

import pytest
import torch

from tests.lowering.helpers import Function, canonical, context, export, run
from tt_edge.errors import LoweringError
from tt_edge.lowering.decoder.move_logits_to_last_token import MoveLogitsToLastToken
from tt_edge.lowering.decoder.select_top_logits import SelectTopLogits

BS = {0: {0: "batch", 1: "sequence"}}


def lowered(count, vocabulary=11):
    """A head's graph whose logits are those of the last token, and what it gives before the pass."""
    torch.manual_seed(0)
    head = Function(lambda self, x: torch.nn.functional.linear(x, self.weight), weight=torch.randn(vocabulary, 8))
    module = canonical(export(head, torch.randn(2, 5, 8), dynamic=BS))
    run(MoveLogitsToLastToken(), module)
    inputs = torch.randn(2, 5, 8), torch.tensor([4, 2])
    (before,) = module(*inputs)
    run(SelectTopLogits(count), module, context())
    return module, inputs, before


def test_the_likeliest_and_one_more_are_outputs_beside_the_logits():
    module, inputs, before = lowered(3)
    logits, values, ids, log_sum_exp = module(*inputs)
    expected = before.topk(4)
    torch.testing.assert_close(logits, before, rtol=0, atol=0)
    torch.testing.assert_close(values, expected.values, rtol=0, atol=0)
    assert torch.equal(ids.long(), expected.indices)
    torch.testing.assert_close(log_sum_exp, before.logsumexp(-1))


def test_the_graph_has_one_more_operator():
    module, _, _ = lowered(3)
    top = module.graph.find_nodes(op="call_function", target=torch.ops.tt_edge.top_logits.default)
    assert [node.args[1] for node in top] == [4]
    assert len(module.graph.find_nodes(op="call_function", target=operator.getitem)) == 3


@pytest.mark.parametrize("count", [11, 12])
def test_more_than_the_vocabulary_is_refused(count):
    with pytest.raises(LoweringError, match=f"top-k={count} is not less than the model's vocabulary of 11 tokens"):
        lowered(count)
