"""From the logits of one request to its next token. NumPy only.

After the logits processors come the steps of sampling: each function here equals the Hugging Face logits warper of that name
on the same scores, which it changes in place; -inf marks what cannot be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.scheduling.logits_processors import TokenHistory, processors_for

Scores = NDArray[np.float32]

#: How many of the likeliest tokens top-p looks at before it sorts the whole vocabulary. Sorting 151,936 scores takes
#: 15 ms on one core of a server, partitioning them 1; the likeliest 1,024 hold the mass in all but flat distributions.
TOP_P_CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Token:
    """One chosen token. ``logprob`` and ``top``, pairs of id and log-probability, are given when they were asked for."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one request: its settings, its random numbers, and the tokens so far."""

    def __init__(self, config: GenerationConfig, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._config = config
        self._random = np.random.default_rng(config.seed) if config.samples else None
        self._history = TokenHistory(prompt_ids, config.max_new_tokens)
        self._processors = processors_for(config, prompt_ids, vocab_size)

    def choose(self, logits: Scores) -> Token:
        """The next token after ``logits`` ``[V]`` float32, which are left as they are.

        Raises ``EngineError`` for NaN or infinite logits, which an overflow in half precision causes, and
        ``InvalidInputError`` where the settings rule out every token.
        """
        best = check_finite(logits)
        choice = self._choose(logits) if self._processors or self._random is not None else best
        self._history.append(choice)
        return Token(choice) if self._config.logprobs is None else with_logprobs(choice, logits, self._config.logprobs)

    def _choose(self, logits: Scores) -> int:
        config, scores = self._config, logits.astype(np.float32)  # a copy
        for process in self._processors:
            process(scores, self._history)
        best = int(scores.argmax())
        if scores[best] == -np.inf:
            raise InvalidInputError(
                f"the settings rule out every token after {len(self._history)} tokens; omit some of bad_words_ids, "
                "suppress_tokens, no_repeat_ngram_size and the like"
            )
        if self._random is None or scores[best] == np.inf:  # a bias may be infinite
            return best
        temperature(scores, config.temperature)
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


def temperature(scores: Scores, value: float) -> None:
    """Divide by ``value``, any positive number: near 0 only the likeliest token keeps a chance, and those equal to it."""
    with np.errstate(all="ignore"):
        scaled = scores / np.float32(value)
        if not np.isfinite(scaled.max()):  # beyond float32: relative to the likeliest, whose score becomes 0
            scaled = ((scores.astype(np.float64) - float(scores.max())) / value).astype(np.float32)
    scores[:] = scaled


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
