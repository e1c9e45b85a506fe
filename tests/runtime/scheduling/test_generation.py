from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.fakes import VOCAB, FakeSession, continuation, contract
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.scheduling.generation import generate

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2], [6, 2, 6]]


@pytest.mark.parametrize("full_logits", [False, True])
def test_ragged_prompts_in_chunks_and_batches(full_logits):
    session = FakeSession(contract(max_batch=3, max_input_len=8, full_logits=full_logits))
    results = generate(session, PROMPTS, GenerationConfig(max_new_tokens=10))
    assert [r.new_token_ids for r in results] == [continuation(p, 10) for p in PROMPTS]
    assert [r.input_ids for r in results] == PROMPTS
    assert {r.finish_reason for r in results} == {"length"}
    assert all(r.timing.ttft_s >= r.timing.prefill_s >= 0 for r in results)
    assert max(feeds["input_ids"].shape[1] for feeds in session.calls) == 8


@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=7),
    max_batch=st.integers(1, 4),
    max_input_len=st.integers(1, 20),
    new=st.integers(1, 12),
    eos=st.sets(st.integers(0, VOCAB - 1), max_size=20),
)
@settings(deadline=None, max_examples=60)
def test_any_batch_gives_what_each_row_gives_alone(prompts, max_batch, max_input_len, new, eos):
    # The tightest capacity that generate() accepts: padding and finished rows must stay within it.
    capacity = max(max(len(p) for p in prompts) + new, max_input_len)
    session = FakeSession(contract(max_batch, max_input_len, capacity))
    results = generate(session, prompts, GenerationConfig(new, tuple(eos)))
    assert [r.new_token_ids for r in results] == [continuation(p, new, tuple(eos)) for p in prompts]
    for result in results:
        assert (result.finish_reason == "eos") == (result.new_token_ids[-1] in eos)


def test_eos_is_kept_and_ends_its_row_alone():
    longest = [continuation(p, 10) for p in PROMPTS]
    eos = longest[0][3]
    results = generate(FakeSession(contract()), PROMPTS, GenerationConfig(10, (eos,)))
    assert results[0].new_token_ids[-1] == eos
    assert len(results[0].new_token_ids) <= 4
    assert results[0].finish_reason == "eos"
    assert [r.new_token_ids for r in results] == [continuation(p, 10, (eos,)) for p in PROMPTS]
    ignored = generate(FakeSession(contract()), PROMPTS, GenerationConfig(10, (eos,), ignore_eos=True))
    assert [r.new_token_ids for r in ignored] == longest


def test_tokens_are_reported_as_they_come():
    seen: dict[int, list[int]] = {}
    results = generate(
        FakeSession(contract(max_batch=2)),
        PROMPTS,
        GenerationConfig(5),
        lambda row, token: seen.setdefault(row, []).append(token.id),
    )
    assert seen == {row: result.new_token_ids for row, result in enumerate(results)}


def test_no_step_runs_after_the_last_token():
    session = FakeSession(contract())
    (result,) = generate(session, [[1, 2]], GenerationConfig(4))
    assert len(session.calls) == 4  # the prompt gives the first token
    assert result.timing.new_tokens == 4
    assert result.timing.tpot_s == pytest.approx(result.timing.decode_s / 3)


def test_one_new_token_needs_no_decode_step():
    (result,) = generate(FakeSession(contract()), [[1, 2]], GenerationConfig(1))
    assert result.timing.decode_s == 0.0
    assert result.timing.tokens_per_s == 0.0


def test_no_prompts():
    assert generate(FakeSession(contract()), [], GenerationConfig()) == []


@pytest.mark.parametrize(
    ("prompts", "error", "match"),
    [
        ([[1], []], InvalidInputError, "prompt 1 has no tokens"),
        ([[1, VOCAB]], InvalidInputError, f"token id {VOCAB}"),
        ([[-1]], InvalidInputError, "token id -1"),
        ([[1], [1] * 30], CapacityError, "prompt 1 has 30 tokens, and 3 new ones make 33, more than max_seq_len 32"),
    ],
)
def test_bad_prompts_are_refused_before_anything_runs(prompts, error, match):
    session = FakeSession(contract())
    with pytest.raises(error, match=match) as caught:
        generate(session, prompts, GenerationConfig(3))
    assert "\n" not in str(caught.value)
    assert session.calls == []
