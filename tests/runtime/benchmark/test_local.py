"""Benchmarks of a small language model by the reference session."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")  # which makes the tokenizer

from examples.tiny_checkpoint import make_tokenizer
from tests.runtime.llms import CAPACITY, make_llm
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.runtime.benchmark.local import measure
from tt_edge.runtime.benchmark.workload import Arrivals, Lengths, Plan


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    with make_llm(folder) as llm:
        yield llm


def test_a_batch(llm):
    found = measure(llm, Plan(20, 5, batch=2, runs=3))
    assert len(found.requests) == 6
    assert found.is_reference
    assert found.what == "evaluated by the reference session"
    for request in found.requests:
        assert (request.input_tokens, request.output_tokens, request.reused_tokens) == (20, 5, 0), (
            "each run starts empty"
        )
        assert len(request.chunks) == 5
        assert list(request.chunks) == sorted(request.chunks)
        assert request.started <= request.computed_from < request.chunks[0]
    assert found.memory.host > 10


def test_requests_at_a_rate(llm):
    spread = Lengths.parse("lognormal:0.7", "--isl-dist")
    plan = Plan(20, 4, batch=2, warmup=0, rate=50.0, requests=8, arrivals=Arrivals.BURST, burst=4, isl_dist=spread)
    found = measure(llm, plan)
    sizes = plan.sizes(CAPACITY)
    assert [(r.input_tokens, r.output_tokens) for r in found.requests] == [tuple(size) for size in sizes]
    starts = [r.started - found.requests[0].started for r in found.requests]
    assert starts == pytest.approx([0] * 4 + [0.08] * 4), "a request counts from when it was due"
    waited = [r for r in found.requests if r.computed_from > r.started + 0.001]
    assert waited, "two slots, so some of a burst wait, which is part of their TTFT"
    assert all(r.ttft_s > r.prefill_s for r in waited)


def test_conversations_reuse_what_they_share(llm):
    found = measure(llm, Plan(4, 3, batch=2, warmup=0, runs=1, prefix=30, turns=3))
    by_turn = {turn: part.requests for turn, part in found.turns().items()}
    assert {turn: len(requests) for turn, requests in by_turn.items()} == {1: 2, 2: 2, 3: 2}
    for turn, requests in by_turn.items():
        assert {r.input_tokens for r in requests} == {30 + 4 * turn + 3 * (turn - 1)}
    # From the second turn on: all before it but the answer's last token, which was not fed back.
    assert {r.reused_tokens for r in by_turn[2]} == {30 + 4 + 2}
    assert {r.reused_tokens for r in by_turn[3]} == {30 + 2 * 4 + 3 + 2}


def test_what_does_not_fit_is_refused(llm):
    with pytest.raises(CapacityError, match=f"more than max_seq_len {CAPACITY}"):
        measure(llm, Plan(CAPACITY, 2))
    with pytest.raises(CapacityError, match="the bundle has 2 slots"):
        measure(llm, Plan(4, 4, batch=3))
    with pytest.raises(InvalidInputError, match="the bundle has no vision tower"):
        measure(llm, Plan(20, 4, image_tokens=4))
