"""``echo`` with ``logprobs``, as evaluation harnesses read them to score a text."""

from __future__ import annotations

import math
from operator import itemgetter

import pytest

from tests.server.conftest import MODEL
from tests.server.parsing.test_limits import post

TEXT = "The light ahead is red and the car stops."


def completion(served, **body):
    status, answer, _ = post(f"{served.url}/v1/completions", {"model": MODEL, "temperature": 0, "seed": 1, **body})
    assert status == 200, answer
    return answer


@pytest.fixture(scope="module")
def ids(served):
    return served.model.llm.tokenizer.encode(TEXT)


def test_a_prompts_log_probabilities(served, ids):
    """A prompt of N tokens and one new: N + 1 entries, the first null; with max_tokens 0, the N of the prompt."""
    one = completion(served, prompt=TEXT, echo=True, logprobs=1, max_tokens=1, ignore_eos=True)["choices"][0]
    none = completion(served, prompt=TEXT, echo=True, logprobs=1, max_tokens=0)["choices"][0]
    for choice, count in ((one, len(ids) + 1), (none, len(ids))):
        found = choice["logprobs"]
        assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
            ("tokens", "token_logprobs", "top_logprobs", "text_offset"), count
        )
        assert found["token_logprobs"][0] is None is found["top_logprobs"][0]
        assert all(p <= 0 for p in found["token_logprobs"][1:])
        assert choice["text"].startswith(TEXT)
        for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
            assert choice["text"][offset:].startswith(token)
    assert none["text"] == TEXT
    assert none["logprobs"]["token_logprobs"] == pytest.approx(one["logprobs"]["token_logprobs"][:-1], abs=1e-3)


def test_they_are_the_models_own(served, ids):
    """Each is what the model gives that token when the tokens before it are the whole prompt."""
    found = completion(served, prompt=ids, echo=True, logprobs=3, max_tokens=0)["choices"][0]["logprobs"]
    for place in (1, 3, len(ids) - 1):
        body = {"prompt": ids[:place], "max_tokens": 1, "logprobs": 20, "logit_bias": {str(ids[place]): 100}}
        forced = completion(served, **body)["choices"][0]["logprobs"]
        assert found["token_logprobs"][place] == pytest.approx(forced["token_logprobs"][0], abs=1e-3)
        best = max(forced["top_logprobs"][0].values())
        assert max(found["top_logprobs"][place].values()) == pytest.approx(best, abs=1e-3)


def test_as_lm_eval_reads_them(served):
    """The requests of ``local-completions`` and how it parses the answers: batches of token ids, context and continuation."""
    tokenizer = served.model.llm.tokenizer
    pairs = [("The light is", " red."), ("Is it", " green?"), ("Go", " on")]
    batch = [(tokenizer.encode(a), tokenizer.encode(b)) for a, b in pairs]
    out = completion(served, prompt=[a + b for a, b in batch], max_tokens=1, logprobs=1, echo=True)
    for choice, (context, continuation) in zip(sorted(out["choices"], key=itemgetter("index")), batch, strict=True):
        start = len(context)
        scores = choice["logprobs"]["token_logprobs"][start:-1]
        tops = choice["logprobs"]["top_logprobs"][start:-1]
        assert len(scores) == len(tops) == len(continuation)
        assert math.isfinite(sum(scores))
        greedy = all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))
        generated = completion(served, prompt=context, max_tokens=len(continuation), ignore_eos=True, logprobs=0)
        want = tokenizer.decode(continuation) == generated["choices"][0]["text"]
        assert greedy == want


def test_without_log_probabilities(served, ids):
    answer = completion(served, prompt=[TEXT, ids], echo=True, max_tokens=0)
    assert [choice["text"] for choice in answer["choices"]] == [TEXT, TEXT]
    assert [choice["logprobs"] for choice in answer["choices"]] == [None, None]
    assert answer["usage"]["completion_tokens"] == 0


def test_what_is_refused(served):
    for body, param in (({"max_tokens": 0}, "max_tokens"), ({"echo": True, "logprobs": 1, "stream": True}, "stream")):
        status, answer, _ = post(f"{served.url}/v1/completions", {"model": MODEL, "prompt": "a", **body})
        assert (status, answer["error"]["param"]) == (400, param)
