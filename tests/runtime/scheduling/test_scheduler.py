"""Continuous batching gives every request the same result as a run without others, and computes no prefix twice."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.fakes import VOCAB, FakeSession, continuation, contract, next_token
from tt_edge.errors import CapacityError, EngineError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.scheduling.request import FinishReason, Request
from tt_edge.runtime.scheduling.scheduler import Scheduler

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]


def request(prompt, new=5, **settings) -> Request:
    return Request(prompt, GenerationConfig(new, **settings))


def ids_of(done: Request) -> list[int]:
    return [token.id for token in done.tokens]


def scheduler(**limits) -> Scheduler:
    return Scheduler(FakeSession(contract(**{"max_seq_len": 64, **limits})))


class StartsAtSlot0(FakeSession):
    starts_anywhere = False


def fed(scheduler: Scheduler) -> int:
    """How many ids all steps took, padding included."""
    return sum(feeds["input_ids"].size for feeds in scheduler.session.calls)


@given(
    jobs=st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.integers(1, 8), st.integers(0, 6)),
        min_size=1,
        max_size=10,
    ),
    max_batch=st.integers(1, 4),
    max_input_len=st.integers(1, 24),
    prefill_tokens=st.integers(1, 8),
    anywhere=st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_requests_that_come_at_any_time(jobs, max_batch, max_input_len, prefill_tokens, anywhere):
    """Prompts of few different tokens, so that many begin alike; the capacity is the least that is accepted."""
    capacity = max([len(prompt) + new for prompt, new, _ in jobs] + [max_input_len])
    limits = contract(max_batch=max_batch, max_input_len=max_input_len, max_seq_len=capacity)
    session = (FakeSession if anywhere else StartsAtSlot0)(limits)
    run = Scheduler(session, prefill_tokens=prefill_tokens)
    requests = []
    for prompt, new, steps in jobs:
        requests.append(request(prompt, new))
        run.submit(requests[-1])
        for _ in range(steps):
            run.step()
    run.run(requests)
    assert [ids_of(r) for r in requests] == [continuation(prompt, new) for prompt, new, _ in jobs]
    assert run.stats.new_tokens == sum(new for _, new, _ in jobs)
    assert run.running == 0
    assert run.stats.computed_tokens == fed(run)
    assert run.stats.steps == len(session.calls)


def test_a_prompt_comes_in_pieces_and_the_others_decode_between_them():
    run = scheduler(max_batch=3, max_input_len=32)
    run.prefill_tokens = 4
    decoding = request([1], 12)
    run.submit(decoding)
    run.step()
    long = request(PROMPT, 2)
    run.submit(long)
    for _ in range(9):
        run.step()
    shapes = [feeds["input_ids"].shape for feeds in run.session.calls[1:]]
    # Every second step has no piece, so that the other slot's tokens come in time on average.
    assert shapes == [(1, 4), (1, 1), (1, 1)] * 4 + [
        (1, 4),
        (2, 1),
    ]  # the last piece gives a token, and its slot decodes at once
    assert (len(decoding.tokens), len(long.tokens)) == (10, 2)
    run.run([decoding, long])
    assert ids_of(decoding) == continuation([1], 12)
    assert ids_of(long) == continuation(PROMPT, 2)
    assert run.stats.computed_tokens == len(PROMPT) + 1 + 11 + 1  # no padding: all tokens but the last of each answer


def test_a_short_prompt_does_not_wait_for_a_long_one():
    run = scheduler(max_batch=3, max_input_len=32)
    run.prefill_tokens = 2
    decoding, long, short = request([1], 30), request(PROMPT, 2), request(PROMPT[::-1][:2], 2)
    run.submit(decoding)
    run.step()
    run.submit(long)
    run.step()
    run.submit(short)
    for _ in range(4):  # nothing, long, nothing, short: every second step has a piece
        run.step()
    assert (len(short.tokens), len(long.tokens)) == (2, 0)
    run.run([decoding, long, short])
    assert [ids_of(r) for r in (long, short)] == [continuation(r.prompt_ids, 2) for r in (long, short)]


def test_a_row_that_falls_free_is_taken_at_once():
    run = scheduler(max_batch=2)
    requests = [request([1], 2), request([2], 6), request([3], 4)]
    for r in requests:
        run.submit(r)
    run.run(requests)
    assert run.stats.steps == 6  # the third runs in the place of the first


def test_the_next_turn_computes_new_tokens_alone():
    run = scheduler(max_batch=1)
    first = request(PROMPT)
    run.submit(first)
    run.run([first])
    before = fed(run)
    second = request([*PROMPT, *ids_of(first), 7, 7])
    run.submit(second)
    run.run([second])
    # All but the last token of the answer are there.
    assert second.reused == len(PROMPT) + 4
    assert fed(run) - before == 3 + 4
    assert ids_of(second) == continuation([*PROMPT, *ids_of(first), 7, 7], 5)


def test_a_prefix_comes_from_another_row():
    run = scheduler(max_batch=3, max_input_len=32)
    first = request(PROMPT, 12)
    run.submit(first)
    run.step()
    others = [request([*PROMPT, n], 5) for n in (1, 2)]
    for r in others:
        run.submit(r)
    run.run([first, *others])
    assert [r.reused for r in others] == [len(PROMPT)] * 2
    assert [ids_of(r) for r in others] == [continuation([*PROMPT, n], 5) for n in (1, 2)]
    assert ids_of(first) == continuation(PROMPT, 12)


def test_the_same_prompt_again_feeds_its_last_token():
    run = scheduler(max_batch=1)
    for _ in range(2):
        again = request(PROMPT)
        run.submit(again)
        run.run([again])
        assert ids_of(again) == continuation(PROMPT, 5)
    assert again.reused == len(PROMPT) - 1


def test_precomputed_prefixes_survive_the_rows():
    run = scheduler(max_batch=1)
    run.precompute(PROMPT)
    steps = run.stats.steps
    run.precompute(PROMPT[:18])  # it is there
    assert run.stats.steps == steps
    for prompt in ([9] * 30, [*PROMPT, 5]):
        last = request(prompt)
        run.submit(last)
        run.run([last])
        assert ids_of(last) == continuation(prompt, 5)
    assert last.reused == len(PROMPT)


def test_cancel():
    run = scheduler(max_batch=1)
    requests = [request([1], 30), request([2], 30), request([3], 3)]
    for r in requests:
        run.submit(r)
    run.step()
    requests[0].cancel()
    requests[1].cancel()
    run.run(requests[2:])
    assert [r.finish_reason for r in requests] == [FinishReason.CANCELLED] * 2 + [FinishReason.LENGTH]
    assert [len(r.tokens) for r in requests] == [1, 0, 3]


def test_on_token_can_stop_its_row_and_on_done_is_called_once():
    run, done = scheduler(), []
    stopped = Request([1], GenerationConfig(30), lambda _: len(stopped.tokens) == 3, lambda: done.append(1))
    run.submit(stopped)
    run.run([stopped])
    assert (len(stopped.tokens), stopped.finish_reason, done) == (3, FinishReason.STOP, [1])


def test_stop_token_ids():
    run, stop = scheduler(), continuation([1], 4)[3]
    ended = request([1], 20, stop_token_ids=(stop,))
    run.submit(ended)
    run.run([ended])
    assert (ids_of(ended)[-1], ended.finish_reason) == (stop, FinishReason.STOP)


def test_one_rows_overflow_is_its_own(monkeypatch):
    session = FakeSession(contract())
    run = Scheduler(session)
    execute = session._execute

    def overflow(feeds, rows):
        logits = execute(feeds, rows)
        if rows.start == 0:
            logits[0] = float("nan")
        return logits

    monkeypatch.setattr(session, "_execute", overflow)
    bad, good = request([1]), request([2])
    run.submit(bad)
    run.submit(good)
    with pytest.raises(EngineError, match="logits hold nan"):
        run.run([bad, good])
    assert ids_of(good) == continuation([2], 5)


def test_a_failed_step_can_be_aborted(monkeypatch):
    run = scheduler()
    failed = request([1])
    run.submit(failed)
    with monkeypatch.context() as patch:
        patch.setattr(run.session, "_execute", lambda *_: (_ for _ in ()).throw(EngineError("out of order")))
        with pytest.raises(EngineError):
            run.step()
        run.abort(EngineError("out of order"))
    assert isinstance(failed.error, EngineError)
    after = request([1])
    run.submit(after)
    run.run([after])
    assert ids_of(after) == continuation([1], 5)


def test_what_can_never_run_is_refused():
    run = scheduler()
    with pytest.raises(CapacityError, match="the prompt has 60 tokens, and 5 new ones make 65"):
        run.submit(request([1] * 60))
    assert not run.waiting
    assert max(PROMPT) < VOCAB


def test_a_salt_keeps_clients_apart():
    """Only requests of the same salt reuse what is cached; what was precomputed is for all."""
    run = scheduler(max_batch=3, max_input_len=32)

    def reused(salt: str, prompt=PROMPT) -> int:
        asked = Request(prompt, GenerationConfig(5), cache_salt=salt)
        run.submit(asked)
        run.run([asked])
        assert ids_of(asked) == continuation(prompt, 5)
        return asked.reused

    assert [reused(salt) for salt in ("one", "two", "", "one", "two", "")] == [0, 0, 0] + [len(PROMPT) - 1] * 3
    running = Request([*PROMPT, 1], GenerationConfig(20), cache_salt="one")
    other = Request([*PROMPT, 2], GenerationConfig(20), cache_salt="three")
    run.submit(running, other)
    run.run([running, other])
    assert (running.reused, other.reused) == (len(PROMPT), 0)
    assert ids_of(other) == continuation([*PROMPT, 2], 20)
    run.precompute(PROMPT)
    assert reused("four") == len(PROMPT) - 1


@pytest.mark.parametrize("max_input_len", [1, 8])
@pytest.mark.parametrize("new", [0, 4])
def test_log_probabilities_of_the_prompt(max_input_len, new):
    """One for every token from the second on, beside requests that prefill and decode, whatever is cached."""
    run = scheduler(max_batch=2, max_input_len=max_input_len)
    before, beside = request(PROMPT), request(PROMPT[::-1], 30)
    run.submit(before)
    run.run([before])
    scored = request(PROMPT, new, prompt_logprobs=2)
    run.submit(scored, beside)
    run.run([scored, beside])
    assert ids_of(scored) == continuation(PROMPT, new)
    assert (scored.finish_reason, scored.reused) == (FinishReason.LENGTH, 0)
    assert ids_of(beside) == continuation(PROMPT[::-1], 30)
    rest = math.log(math.e + VOCAB - 1)  # the fake's logits are 1 for its next token and 0 for the others
    assert [t.id for t in scored.prompt_tokens] == PROMPT[1:]
    for count, token in enumerate(scored.prompt_tokens, 1):
        likely = next_token(PROMPT[:count])
        assert token.logprob == pytest.approx((token.id == likely) - rest)
        assert token.top[0] == (likely, pytest.approx(1 - rest))
        assert len(token.top) == 2


def test_a_prompt_of_one_token_has_nothing_to_score():
    run = scheduler()
    scored = request([1], 0, prompt_logprobs=0)
    run.submit(scored)
    run.run([scored])
    assert (scored.tokens, scored.prompt_tokens, scored.finish_reason) == ([], [], FinishReason.LENGTH)


def test_what_a_callback_raises_ends_its_own_request():
    run = scheduler()
    bad, good = Request([1], GenerationConfig(5), lambda _: 1 / 0), request([2])
    after = Request([3], GenerationConfig(5), on_done=lambda: [].pop())
    run.submit(bad, good, after)
    with pytest.raises(ZeroDivisionError):
        run.run([bad, good, after])
    assert ids_of(good) == continuation([2], 5)
    assert isinstance(after.error, IndexError)
    assert after.is_done


def test_several_threads_share_the_batch():
    """Whichever thread steps, every thread gets its own answers."""
    run = scheduler(max_batch=3)
    wrong: list[object] = []

    def use(seed: int) -> None:
        for turn in range(20):
            asked = request([seed, turn, *PROMPT[: seed + turn % 5]], 6)
            run.submit(asked)
            run.run([asked])
            if ids_of(asked) != continuation(asked.prompt_ids, 6):
                wrong.append((seed, turn))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert run.running == run.waiting == 0


def test_precomputing_and_forgetting_leave_running_requests_alone():
    """Before, both took a slot that another thread's request was using, and its answer was wrong."""
    run = scheduler(max_batch=2)
    asked = request(PROMPT[:18], 6)
    run.submit(asked)
    run.step()
    run.precompute(PROMPT)  # the busy slot holds most of it
    with pytest.raises(EngineError, match=r"^the KV cache cannot be forgotten while requests are running; wait until"):
        run.forget()
    other = request([7], 30)
    run.submit(other)
    run.step()
    with pytest.raises(EngineError, match=r"^nothing can be precomputed while requests are running; wait until"):
        run.precompute([9] * 20)
    run.run([asked, other])
    assert ids_of(asked) == continuation(PROMPT[:18], 6)
    assert ids_of(other) == continuation([7], 30)
    run.forget()
