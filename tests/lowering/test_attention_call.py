from __future__ import annotations

import pytest
import torch

from tests.lowering.helpers import attention_module, query_key_value
from tt_edge.lowering.attention_call import AttentionCall


def the_call(**settings):
    (call,) = AttentionCall.all_in(attention_module(**settings).graph)
    return call


def test_what_is_not_given_is_off():
    call = the_call()
    assert [node.name for node in (call.query, call.key, call.value)] == ["query", "key", "value"]
    assert (call.scale, call.causal, call.window, call.softcap, call.sinks) == (0.25, True, None, None, None)


def test_every_setting_is_read():
    call = the_call(causal=False, sliding_window=3, softcap=0.5)
    assert (call.causal, call.window, call.softcap) == (False, 3, 0.5)


def test_positional_and_named_arguments_read_alike():
    """Exporters write either; a decoding by position would miss the second."""
    graph = torch.fx.Graph()
    operands = [graph.placeholder(name) for name in ("q", "k", "v")]
    attention = torch.ops.tt_edge.attention.default
    calls = [
        graph.call_function(attention, (*operands, 0.25, True, 7)),
        graph.call_function(attention, (*operands, 0.25), {"sliding_window": 7}),
        graph.call_function(attention, tuple(operands), {"scale": 0.25, "sliding_window": 7}),
    ]
    read = [AttentionCall.of(node) for node in calls]
    assert [(c.query, c.scale, c.causal, c.window) for c in read] == [(operands[0], 0.25, True, 7)] * 3


@pytest.mark.parametrize(("window", "capacity", "kept"), [(3, 64, 3), (63, 64, 63), (64, 64, None), (0, 64, None)])
def test_a_window_as_long_as_the_cache_hides_nothing(window, capacity, kept):
    assert the_call(sliding_window=window).window_within(capacity) == kept


def test_another_operator_is_refused():
    graph = attention_module().graph
    with pytest.raises(TypeError, match=r"query calls query, not tt_edge\.attention\.default"):
        AttentionCall.of(next(n for n in graph.nodes if n.name == "query"))


def test_the_view_says_what_the_operator_computes():
    module = attention_module(sliding_window=3, softcap=0.5)
    (call,) = AttentionCall.all_in(module.graph)
    q, k, v = query_key_value(5, seed=0)
    (got,) = module(torch.zeros(2, 5, dtype=torch.int64), q, k, v)
    want = torch.ops.tt_edge.attention(q, k, v, call.scale, call.causal, call.window, call.softcap)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
