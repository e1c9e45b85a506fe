"""Tokens from the largest logits are those from the whole vocabulary's, for every setting."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.errors import EngineError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.top_logits import TopBatch, TopLogits
from tt_edge.runtime.scheduling.sampling import Sampler

VOCAB, STEPS = 400, 300


def rows(spread: float, *, ties: bool) -> list[np.ndarray]:
    """Random logits; with ``ties``, rounded so that many are equal."""
    logits = np.random.default_rng(0).normal(0, spread, (STEPS, VOCAB)).astype(np.float32)
    return list(np.round(logits * 4) / 4 if ties else logits)


class Largest:
    """The ``count`` largest of a row, equal ones in random order, as TensorRT may give them; counts calls of ``whole``."""

    def __init__(self, count: int) -> None:
        self.count, self.whole, self.random = count, 0, np.random.default_rng(1)

    def of(self, logits: np.ndarray) -> TopLogits:
        shuffled = self.random.permutation(len(logits)).astype(np.int32)
        ids = shuffled[np.argsort(-logits[shuffled], kind="stable")][: self.count]
        peak = logits.max()
        total = np.float32(np.log(np.exp(logits - peak).sum()) + peak)
        batch = TopBatch(logits[ids][None], ids[None], [float(total)], len(logits), lambda row: self._whole(logits))
        return batch.rows()[0]

    def _whole(self, logits: np.ndarray) -> np.ndarray:
        self.whole += 1
        return logits


SETTINGS = {
    "greedy": {},
    "top-k": {"temperature": 1.0, "top_k": 20},
    "top-k of one": {"temperature": 1.3, "top_k": 1},
    "top-k and top-p": {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    "top-k, top-p and min-p": {"temperature": 1.5, "top_k": 31, "top_p": 0.9, "min_p": 0.1},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "top-p, colder": {"temperature": 0.6, "top_p": 0.9},
    "top-p, hotter": {"temperature": 1.4, "top_p": 0.5},
    "top-p and min-p": {"temperature": 0.8, "top_p": 0.9, "min_p": 0.05},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "nearly greedy": {"temperature": 1e-40, "top_p": 0.9},
    "everything": {"temperature": 1.0},
    "top-k of everything": {"temperature": 1.0, "top_k": VOCAB, "top_p": 0.5},
    "more than there are": {"temperature": 1.0, "top_k": 50},
    "a penalty": {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.2},
}
NEED_ALL = ("everything", "more than there are", "a penalty", "nearly greedy")
#: At a temperature above 1 the log-sum-exp bounds the rest of the vocabulary loosely.
LOOSE = ("top-p, hotter",)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_tokens_as_from_all_logits(settings, ties):
    for spread, count in ((4.0, 33), (1.0, 33), (4.0, 2)):
        largest = Largest(count)
        config = GenerationConfig(STEPS, seed=5, **SETTINGS[settings])
        whole, top = Sampler(config, [1], VOCAB), Sampler(config, [1], VOCAB)
        for logits in rows(spread, ties=ties):
            assert top.choose(largest.of(logits)) == whole.choose(logits)
        if spread == 4.0 and count == 33 and not ties:
            assert settings in LOOSE or (largest.whole == STEPS) == (settings in NEED_ALL)


@pytest.mark.parametrize("settings", ["top-p", "top-p, colder", "top-p and min-p"])
@pytest.mark.parametrize("level", [-3e4, 3000.0])
def test_the_same_tokens_of_logits_far_from_0(settings, level):
    """A float32 near 30,000 says a log-sum-exp to 0.002 only."""
    largest = Largest(33)
    config = GenerationConfig(STEPS, seed=5, **SETTINGS[settings])
    whole, top = Sampler(config, [1], VOCAB), Sampler(config, [1], VOCAB)
    for logits in rows(4.0, ties=False):
        moved = (logits + np.float32(level)).astype(np.float32)
        assert top.choose(largest.of(moved)) == whole.choose(moved)


def test_greedy_needs_no_more_than_one_number_and_a_second_that_is_less():
    largest = Largest(2)
    sampler = Sampler(GenerationConfig(STEPS), [1], VOCAB)
    for logits in rows(1.0, ties=False):
        assert sampler.choose(largest.of(logits)).id == logits.argmax()
    assert largest.whole == 0


@pytest.mark.parametrize("count", [0, 5, 12, 20])
def test_log_probabilities(count):
    largest = Largest(12)
    config = GenerationConfig(STEPS, logprobs=count)
    for logits in rows(2.0, ties=False)[:20]:
        expected = Sampler(config, [1], VOCAB).choose(logits)
        got = Sampler(config, [1], VOCAB).choose(largest.of(logits))
        assert got.id == expected.id
        assert [token for token, _ in got.top] == [token for token, _ in expected.top]
        assert got.logprob == pytest.approx(expected.logprob, abs=5e-6)
        assert [value for _, value in got.top] == pytest.approx([value for _, value in expected.top], abs=5e-6)
    assert largest.whole == (20 if count > 12 else 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_anywhere_in_the_vocabulary(bad):
    logits = rows(1.0, ties=False)[0]
    row = Largest(33).of(logits)
    row.batch.log_sum_exp = [bad]
    with pytest.raises(EngineError, match=f"the logits hold {bad}; compile with --precision bf16 or fp32"):
        Sampler(GenerationConfig(8), [1], VOCAB).choose(row)


@pytest.mark.parametrize("wrong", [-1, VOCAB, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_never_fed_back(wrong):
    good = Largest(33).of(rows(1.0, ties=False)[0])
    good.ids[0] = wrong
    with pytest.raises(EngineError, match=f"the engine chose the token {wrong}, and the vocabulary has 400"):
        Sampler(GenerationConfig(8), [1], VOCAB).choose(good)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_the_same_tokens_where_rounding_decides_what_top_p_keeps(tenths):
    """Of equal logits, a tenth of the probability often ends at a token's edge."""
    for equal in range(2, 31):
        logits = np.full(VOCAB, -30, np.float32)
        logits[np.random.default_rng(equal).choice(VOCAB, equal, replace=False)] = 2.5
        config = GenerationConfig(20, temperature=0.7, top_k=equal, top_p=tenths / 10, seed=1)
        whole, top = Sampler(config, [1], VOCAB), Sampler(config, [1], VOCAB)
        largest = Largest(33)
        assert [top.choose(largest.of(logits)) for _ in range(20)] == [whole.choose(logits) for _ in range(20)]
