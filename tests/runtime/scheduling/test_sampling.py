"""Every step from logits to a token, against the Hugging Face logits processor of that name."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from tt_edge.errors import EngineError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.scheduling import sampling
from tt_edge.runtime.scheduling.sampling import Sampler

VOCAB, PROMPT = 6000, [5, 17, 17, 4999]


@pytest.fixture(params=["peaked", "flat", "ties"])
def logits(request):
    values = np.random.default_rng(3).normal(size=VOCAB).astype(np.float32)
    return {"peaked": values * 4, "flat": values * 0.1, "ties": values.round(0)}[request.param]


def huggingface(scores: np.ndarray, ids: list[int], *processors) -> np.ndarray:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(scores)[None]
    for processor in processors:
        tensor = processor(torch.tensor([ids]), tensor)
    return tensor[0].numpy()


def hf():
    return pytest.importorskip("transformers.generation.logits_process")


@pytest.mark.parametrize(
    ("name", "value", "theirs"),
    [
        ("top_k", 1, lambda: hf().TopKLogitsWarper(1)),
        ("top_k", 50, lambda: hf().TopKLogitsWarper(50)),
        ("top_k", VOCAB + 9, lambda: hf().TopKLogitsWarper(VOCAB + 9)),
        ("top_p", 1e-6, lambda: hf().TopPLogitsWarper(1e-6)),
        ("top_p", 0.5, lambda: hf().TopPLogitsWarper(0.5)),
        ("top_p", 0.95, lambda: hf().TopPLogitsWarper(0.95)),
        ("min_p", 0.05, lambda: hf().MinPLogitsWarper(0.05)),
        ("min_p", 1.0, lambda: hf().MinPLogitsWarper(1.0)),
    ],
)
def test_one_limit(logits, name, value, theirs):
    scores = logits.copy()
    getattr(sampling, name)(scores, value)
    want = huggingface(logits, PROMPT, theirs())
    kept, theirs_kept = np.isfinite(scores), np.isfinite(want)
    if name == "top_p":  # where scores are equal, which of them is kept is a matter of the sort
        np.testing.assert_array_equal(np.sort(scores[kept]), np.sort(want[theirs_kept]))
    else:
        np.testing.assert_array_equal(scores, want)


CONFIGS = [
    GenerationConfig(logit_bias={7: 9.0, 8: -100.0}),
    GenerationConfig(repetition_penalty=1.5),
    GenerationConfig(temperature=0.7, seed=1),
    GenerationConfig(
        temperature=1.3, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=0.8, seed=2, logit_bias={3: 2}
    ),
]


def drawn(scores: np.ndarray, uniform: float, config: GenerationConfig) -> int:
    """The token at ``uniform`` of the distribution: by id, or likeliest first where the settings leave a part of the vocabulary."""
    order = (
        np.argsort(-scores, kind="stable")
        if config.top_k or config.top_p < 1 or config.min_p
        else np.arange(len(scores))
    )
    weights = np.exp(scores[order].astype(np.float64) - scores.max())
    return int(order[np.searchsorted(np.cumsum(weights), uniform * weights.sum(), side="right")])


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_all_together_over_some_tokens(config):
    """The distribution that each token is drawn from is Hugging Face's, in its order, as the answer grows."""
    theirs = []
    if config.logit_bias:
        theirs.append(hf().SequenceBiasLogitsProcessor({(token,): bias for token, bias in config.logit_bias}))
    if config.repetition_penalty != 1:
        theirs.append(hf().RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.samples:
        theirs.append(hf().TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        theirs.append(hf().TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        theirs.append(hf().TopPLogitsWarper(config.top_p))
    if config.min_p:
        theirs.append(hf().MinPLogitsWarper(config.min_p))
    random, uniforms = np.random.default_rng(4), np.random.default_rng(config.seed)
    sampler, ids = Sampler(config, PROMPT, VOCAB), list(PROMPT)
    for _ in range(12):
        logits = random.normal(scale=3, size=VOCAB).astype(np.float32)
        before = logits.copy()
        token = sampler.choose(logits).id
        np.testing.assert_array_equal(logits, before)
        want = huggingface(logits, ids, *theirs)
        assert token == (drawn(want, uniforms.random(), config) if config.samples else int(want.argmax()))
        ids.append(token)


def test_draws_follow_the_distribution():
    scores = np.log(np.array([0.5, 0.25, 0.2, 0.05], np.float32))
    drawn = [sampling.draw(scores, u) for u in np.random.default_rng(0).random(20_000)]
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), [0.5, 0.25, 0.2, 0.05], atol=0.01)
    masked = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert {sampling.draw(masked, u) for u in (0.0, 0.4, 0.6, np.nextafter(1, 0))} == {1, 3}


def test_presence_and_frequency_penalties_count_only_the_answer():
    config = GenerationConfig(presence_penalty=1.0, frequency_penalty=0.25)
    sampler, logits = Sampler(config, [0, 0, 0], 3), np.array([2.0, 1.9, 0.0], np.float32)
    # 0 costs 1.25 once chosen and 0.25 more each further time; 1 likewise.
    assert [sampler.choose(logits).id for _ in range(6)] == [0, 1, 0, 1, 0, 1]
    greedy = Sampler(GenerationConfig(), [0], 3)
    assert [greedy.choose(logits).id for _ in range(3)] == [0, 0, 0]


def test_a_seed_gives_the_same_tokens():
    logits = np.zeros(500, np.float32)
    one, again, other = (
        [sampler.choose(logits).id for _ in range(8)]
        for sampler in (Sampler(GenerationConfig(temperature=1.0, seed=s), [1], 500) for s in (9, 9, 10))
    )
    assert one == again != other


def test_logprobs_are_the_models_own(logits):
    config = GenerationConfig(temperature=0.5, top_k=1, logit_bias={11: 100}, logprobs=5)
    token = Sampler(config, PROMPT, VOCAB).choose(logits)
    exact = logits.astype(np.float64) - math.log(np.exp(logits.astype(np.float64)).sum())
    assert token.id == 11
    assert token.logprob == pytest.approx(exact[11], abs=1e-5)
    assert [p for _, p in token.top] == pytest.approx(np.sort(exact)[::-1][:5], abs=1e-5)
    assert all(p == pytest.approx(exact[t], abs=1e-5) for t, p in token.top)
    assert Sampler(GenerationConfig(logprobs=0), PROMPT, VOCAB).choose(logits).top == ()
    assert len(Sampler(GenerationConfig(logprobs=20), [1], 3).choose(logits[:3]).top) == 3


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-38, 1e-40, 1e-45, 1e-300, 5e-324])
@pytest.mark.parametrize("limits", [{}, {"top_k": 5, "top_p": 0.5}, {"min_p": 0.1}, {"top_k": 1}, {"top_p": 1e-300}])
def test_temperatures_near_zero_are_greedy(logits, temperature, limits):
    """The limit: of tokens that are equally likely any, without a warning or NaN, below float32's smallest number too."""
    config = GenerationConfig(temperature=temperature, seed=3, **limits, suppress_tokens=(9,))
    for scores in (logits, -np.abs(logits) - 1, logits * 1e30, np.where(np.arange(VOCAB) % 2, logits, -np.inf)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chosen = Sampler(config, PROMPT, VOCAB).choose(scores.astype(np.float32)).id
        left = scores.astype(np.float32).copy()
        left[9] = -np.inf
        assert left[chosen] == left.max()


def test_equally_likely_tokens_share_the_draws_near_zero():
    scores = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    drawn = [Sampler(GenerationConfig(temperature=1e-40, seed=s), [0], 4).choose(scores).id for s in range(200)]
    assert set(drawn) == {1, 2}
    assert 60 < drawn.count(1) < 140


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1.0, 100.0])
def test_temperature_is_hugging_faces(logits, temperature):
    scores = logits.copy()
    sampling.temperature(scores, temperature)
    np.testing.assert_array_equal(scores, huggingface(logits, PROMPT, hf().TemperatureLogitsWarper(temperature)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_overflow_is_an_error(bad):
    with pytest.raises(EngineError, match="compile with --precision bf16 or fp32"):
        Sampler(GenerationConfig(), [1], 3).choose(np.array([0, bad, 1], np.float32))


def test_the_first_of_equals_and_masked_logits():
    assert Sampler(GenerationConfig(), [1], 4).choose(np.array([-np.inf, 2, 2, -1], np.float32)).id == 1
