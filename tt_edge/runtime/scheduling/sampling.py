"""From the logits of one row to its next token. NumPy alone.

Every step of the way is a function of its own, equal to the Hugging Face logits processor of that name on the same
scores; they change scores in place, and -inf marks what cannot be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import EngineError
from tt_edge.generation_config import GenerationConfig

Scores = NDArray[np.float32]

#: How many of the likeliest tokens top-p looks at before it sorts the whole vocabulary. Sorting 151,936 scores takes
#: 15 ms on one core of a server, partitioning them 1; the likeliest 1,024 hold the mass in all but flat distributions.
TOP_P_CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Token:
    """One chosen token. ``logprob`` and ``top``, pairs of id and log-probability, are there when they were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """The choices for one row: its parameters, its random numbers, and what it has seen."""

    def __init__(self, config: GenerationConfig, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._config = config
        self._random = np.random.default_rng(config.seed) if config.samples else None
        bias = {token: value for token, value in dict(config.logit_bias).items() if token < vocab_size}
        self._bias = (np.array(list(bias)), np.array(list(bias.values()), np.float32)) if bias else None
        self._seen = np.unique(np.asarray(prompt_ids, np.int64)) if config.repetition_penalty != 1 else None
        counts_matter = config.presence_penalty or config.frequency_penalty
        self._counts = np.zeros(vocab_size, np.int32) if counts_matter else None
        self._plain = not (config.samples or bias or counts_matter) and self._seen is None

    def choose(self, logits: Scores) -> Token:
        """The next token after ``logits`` ``[V]`` float32, which are left as they are.

        Raises ``EngineError`` for NaN or infinite logits, which an overflow in half precision causes.
        """
        best = check_finite(logits)
        choice = best if self._plain else self._choose(logits)
        if self._seen is not None:
            self._seen = np.union1d(self._seen, [choice])
        if self._counts is not None:
            self._counts[choice] += 1
        return Token(choice) if self._config.logprobs is None else with_logprobs(choice, logits, self._config.logprobs)

    def _choose(self, logits: Scores) -> int:
        config, scores = self._config, logits.astype(np.float32)  # a copy
        if self._bias is not None:
            scores[self._bias[0]] += self._bias[1]
        if self._seen is not None:
            repetition_penalty(scores, self._seen, config.repetition_penalty)
        if self._counts is not None:
            scores -= config.frequency_penalty * self._counts + config.presence_penalty * (self._counts > 0)
        if self._random is None:
            return int(scores.argmax())
        scores /= np.float32(config.temperature)
        ids = np.arange(0)  # of scores, once they are not the whole vocabulary's
        limits: tuple[tuple[bool, Callable[[Scores], None]], ...] = (
            (config.top_k > 0, lambda s: top_k(s, config.top_k)),
            (config.top_p < 1, lambda s: top_p(s, config.top_p)),
            (config.min_p > 0, lambda s: min_p(s, config.min_p)),
        )
        for is_on, limit in limits:
            if is_on:
                limit(scores)
                kept = np.flatnonzero(scores > -np.inf)
                ids, scores = (ids[kept] if len(ids) else kept), scores[kept]
        index = draw(scores, self._random.random())
        return int(ids[index]) if len(ids) else index


def check_finite(logits: Scores) -> int:
    """The likeliest token. Raises ``EngineError`` for NaN or infinite logits."""
    best = int(logits.argmax())  # NaN counts as the largest
    if not np.isfinite(logits[best]):
        raise EngineError(f"the logits hold {logits[best]}; compile with --precision bf16 or fp32")
    return best


def repetition_penalty(scores: Scores, seen: NDArray[np.int64], penalty: float) -> None:
    """Make the tokens ``seen`` less likely: divide their scores where positive, multiply where negative."""
    old = scores[seen]
    scores[seen] = np.where(old < 0, old * np.float32(penalty), old / np.float32(penalty))


def top_k(scores: Scores, k: int) -> None:
    """Keep the ``k`` largest scores, and what equals the last of them."""
    if k < len(scores):
        scores[scores < np.partition(scores, len(scores) - k)[-k]] = -np.inf


def top_p(scores: Scores, p: float) -> None:
    """Keep the fewest tokens whose probabilities, largest first, add up to ``p``; always one."""
    weights = _weights(scores)
    total = weights.sum()
    candidates = np.arange(len(scores))
    if len(scores) > TOP_P_CANDIDATES:
        best = np.flatnonzero(scores >= np.partition(scores, -TOP_P_CANDIDATES)[-TOP_P_CANDIDATES])
        if weights[best].sum() >= p * total:
            candidates = best
    order = candidates[np.argsort(scores[candidates], kind="stable")]  # ascending, as Hugging Face sorts
    above = total - weights[order].sum() + np.cumsum(weights[order])  # mass of each and all less likely ones
    above[-1] = np.inf  # the likeliest stays, whatever p
    keep = order[above > (1 - p) * total]
    kept = scores[keep]
    scores[:] = -np.inf
    scores[keep] = kept


def min_p(scores: Scores, p: float) -> None:
    """Keep the tokens at least ``p`` times as likely as the likeliest (arXiv:2407.01082)."""
    weights = _weights(scores)  # the likeliest token's is 1
    scores[weights < p] = -np.inf


def draw(scores: Scores, uniform: float) -> int:
    """The token at ``uniform``, in [0, 1), of the distribution softmax(``scores``)."""
    cumulative = np.cumsum(_weights(scores))
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    if index == len(scores):  # the product was rounded up to the total
        index = int(np.flatnonzero(scores > -np.inf)[-1])
    return index


def with_logprobs(choice: int, logits: Scores, count: int) -> Token:
    """``choice`` with its log-probability and those of the ``count`` likeliest tokens, likeliest first."""
    peak = logits.max()
    log_total = float(peak) + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    first = len(logits) - min(max(count, 1), len(logits))
    ids = np.argpartition(logits, first)[first:]
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    top = tuple((int(token), float(logits[token]) - log_total) for token in ids)
    return Token(choice, float(logits[choice]) - log_total, top)


def _weights(scores: Scores) -> NDArray[np.float64]:
    """Probabilities times a constant: 1 for the likeliest."""
    weights: NDArray[np.float64] = np.exp(scores - scores.max(), dtype=np.float64)
    return weights
