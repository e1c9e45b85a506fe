"""Log-probabilities of given tokens, beside one plain step per sequence."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.decoders import compiled
from tests.network.reference.building import DecoderShape
from tt_edge.errors import CapacityError
from tt_edge.evaluation.scoring import Target, score
from tt_edge.runtime.engine.reference_session import ReferenceSession

CAPACITY = 48


@pytest.fixture(params=["every token", "last token"])
def session(request):
    network, contract = compiled(max_batch=3, max_input_len=8, shape=DecoderShape(capacity=CAPACITY, scale=0.3))
    found = ReferenceSession(network, contract)
    if request.param == "last token":
        found.has_full_logits = False  # as if the network had only the last token's
        step = found._step

        def last_token(*args, every_token=False, **kwargs):
            assert not every_token
            found.has_full_logits = True  # the network does have all
            logits = step(*args, **kwargs)
            found.has_full_logits = False
            return logits

        found._step = last_token
    with found:
        yield found


def targets(session, lengths, seed=0):
    generator = np.random.default_rng(seed)
    vocabulary = session.contract.vocab_size
    return [
        Target(
            generator.integers(0, vocabulary, prompt).tolist(),
            generator.integers(0, vocabulary, continuation).tolist(),
            (3, 5, 7),
        )
        for prompt, continuation in lengths
    ]


def plain(session, target):
    """The log-probabilities by one sequence alone, token by token."""
    session.reset(1)
    rows = []
    for place, token in enumerate(target.fed):
        logits = session.forward(np.array([[token]]), np.array([1]))[0].astype(np.float64)
        if place >= len(target.prompt) - 1:
            rows.append(logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
    own = [row[token] for row, token in zip(rows, target.continuation, strict=False)]
    greedy = all(row.argmax() == token for row, token in zip(rows, target.continuation, strict=False))
    return np.array(own), greedy, rows[0][list(target.choices)]


def check(session, asked):
    found = dict(score(session, asked))
    assert sorted(found) == list(range(len(asked)))
    for number, target in enumerate(asked):
        logprobs, greedy, choices = plain(session, target)
        np.testing.assert_allclose(found[number].logprobs, logprobs, atol=1e-3)
        np.testing.assert_allclose(found[number].choices, choices, atol=1e-3)
        assert found[number].greedy == greedy


def test_ragged_targets_in_a_batch(session):
    check(session, targets(session, [(1, 1), (20, 5), (3, 0), (1, CAPACITY), (40, 9), (7, 2), (CAPACITY, 1), (2, 30)]))


def test_a_common_beginning_is_computed_once(session):
    first, *_ = targets(session, [(30, 4)])
    asked = [Target([*first.prompt[:-1], number], first.continuation) for number in range(6)]
    fed = []
    forward = session.forward

    def counted(ids, lengths, *args, **kwargs):
        fed.append(int(lengths.sum()))
        return forward(ids, lengths, *args, **kwargs)

    session.forward = counted
    found = dict(score(session, asked))
    assert sum(fed) <= 3 * 33 + 3 * 4, "three slots compute the beginning, the other three use it"
    session.forward = forward
    for number, target in enumerate(asked):
        np.testing.assert_allclose(found[number].logprobs, plain(session, target)[0], atol=1e-3)


def test_greedy(session):
    prompt = [1, 2, 3]
    session.reset(1)
    logits = session.forward(np.array([prompt]), np.array([3]))[0]
    likeliest = int(logits.argmax())
    found = dict(score(session, [Target(prompt, [likeliest]), Target(prompt, [(likeliest + 1) % len(logits)])]))
    assert [found[0].greedy, found[1].greedy] == [True, False]


def test_too_long(session):
    asked = [Target([1] * CAPACITY, [1, 2], what="a.csv row 3")]
    with pytest.raises(CapacityError, match=r"a.csv row 3 needs 49 tokens, .*--max-seq-len 49 or more"):
        dict(score(session, asked))
    assert dict(score(session, [])) == {}
