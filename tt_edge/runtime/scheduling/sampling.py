"""From the logits of one request to its next token: logits processors, the steps of sampling, and the draw. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tt_edge.errors import EngineError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.top_logits import RowLogits, Scores, TopLogits
from tt_edge.runtime.scheduling import top_choice
from tt_edge.runtime.scheduling.logits_processors import TokenHistory, processors_for
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.scheduling.warpers import draw, min_p, temperature, top_k, top_p


class Sampler:
    """Chooses the tokens of one request: its settings, its random numbers, and the tokens so far."""

    def __init__(self, config: GenerationConfig, prompt_ids: Sequence[int], vocab_size: int) -> None:
        self._config = config
        self._random = np.random.default_rng(config.seed) if config.samples else None
        self._history = TokenHistory(prompt_ids, config.max_new_tokens)
        self._processors = processors_for(config, prompt_ids, vocab_size)

    def choose(self, logits: RowLogits) -> Token:
        """The next token after ``logits``, float32 ``[V]`` or the largest of them, which are left as they are.

        The token is the same for both. Raises ``EngineError`` for NaN or infinite logits, which an overflow in half precision
        causes, and ``InvalidInputError`` where the settings rule out every token.
        """
        if isinstance(logits, TopLogits):
            token = None if self._processors else top_choice.choose(logits, self._config, self._random)
            if token is not None:
                self._history.append(token.id)
                return token
            logits = logits.whole()
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
        uniform = self._random.random()
        if not len(ids):
            return draw(scores, uniform)
        # Likeliest first, as the network selects them, so that one number draws one token.
        order = np.lexsort((ids, -scores))
        return int(ids[order][draw(scores[order], uniform)])


def check_finite(logits: Scores) -> int:
    """The likeliest token. Raises ``EngineError`` for NaN or infinite logits."""
    best = int(logits.argmax())  # NaN counts as the largest
    if not np.isfinite(logits[best]):
        raise EngineError(f"the logits hold {logits[best]}; compile with --precision bf16 or fp32")
    return best


def with_logprobs(choice: int, logits: Scores, count: int) -> Token:
    """``choice`` with its log-probability and those of the ``count`` likeliest tokens, likeliest first."""
    peak = logits.max()
    log_total = float(peak) + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    first = len(logits) - min(max(count, 1), len(logits))
    ids = np.argpartition(logits, first)[first:]
    ids = ids[np.argsort(-logits[ids], kind="stable")][:count]
    top = tuple((int(token), float(logits[token]) - log_total) for token in ids)
    return Token(choice, float(logits[choice]) - log_total, top)
