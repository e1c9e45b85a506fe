"""From the largest logits of a token to the next token, the same as from the whole vocabulary's. NumPy only.

The smallest of the largest logits bounds what is not among them, and the log-sum-exp says how much probability that has. Where
this proves that all that the settings keep is there, the token is chosen; where it does not, the caller takes all logits.
"""

from __future__ import annotations

import bisect
import math

import numpy as np

from tt_edge.errors import EngineError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.top_logits import TopBatch, TopLogits
from tt_edge.runtime.scheduling.token import Token

#: Relative error of the sum of all weights, which the device adds up in some order as float32.
_ROUNDING = 1e-5
#: Relative error of the log-sum-exp itself, in units of 1: of a large one, the spacing of float32 is more than ``_ROUNDING``.
_SPACING = 2.0**-22
#: Relative error of a sum of a few float64 weights, generously.
_EDGE = 1e-12
#: Quotients by the temperature beyond this may not fit float32.
_LARGEST = 1e38
#: So many of the largest logits are looked at first; few are kept in most distributions.
_FEW = 32


def choose(top: TopLogits, config: GenerationConfig, random: np.random.Generator | None) -> Token | None:
    """The next token, greedy without ``random``; ``None`` where the largest logits do not decide it.

    A number is taken from ``random`` only with a token. Raises ``EngineError`` for NaN or infinite logits, and for a token id
    outside the vocabulary.
    """
    batch, row = top.batch, top.row
    if not math.isfinite(batch.log_sum_exp[row]):
        raise EngineError(f"the logits hold {batch.log_sum_exp[row]}; compile with --precision bf16 or fp32")
    if config.logprobs is not None and config.logprobs > batch.count:
        return None
    choice = _greedy(top) if random is None else _drawn(top, config, random)
    if choice is None:
        return None
    if not 0 <= choice < batch.vocab_size:
        raise EngineError(
            f"the engine chose the token {choice}, and the vocabulary has {batch.vocab_size:,}; build the engine again"
        )
    return Token(choice) if config.logprobs is None else _with_logprobs(choice, top, config.logprobs)


def _greedy(top: TopLogits) -> int | None:
    """The likeliest token, of equal ones that with the lowest id; ``None`` where tokens that are not there may equal it."""
    choice = top.batch.likeliest[top.row]
    if choice is not None:
        return choice
    values = top.values
    if values[-1] == values[0] and top.batch.count < top.batch.vocab_size:
        return None
    return int(top.ids[values == values[0]].min())


def _drawn(top: TopLogits, config: GenerationConfig, random: np.random.Generator) -> int | None:
    batch, row, limit = top.batch, top.row, _LARGEST * config.temperature
    best, last = batch.range[row]
    if not -limit < last <= best < limit:
        return None  # a temperature near 0, which takes more care
    top_k = config.top_k if config.top_k < batch.vocab_size else 0
    width = _FEW if batch.count > _FEW > top_k else batch.count
    kept = _kept(top, config, top_k, width)
    if kept is None and width < batch.count:
        width = batch.count
        kept = _kept(top, config, top_k, width)
    if kept is None:
        return None
    # Plain Python: NumPy takes longer for so few numbers.
    count, ids = kept
    scaled = batch.scaled(config.temperature, width)
    weights, masses = scaled.weights[row], scaled.masses[row]
    if top_k > 0 and config.top_p < 1:
        edge, near = config.top_p * masses[count - 1], _EDGE * masses[count - 1]
        fewer = min(bisect.bisect_left(masses, edge, 0, count) + 1, count)
        if masses[fewer - 1] - edge < near or (fewer > 1 and edge - masses[fewer - 2] < near):
            return None  # all logits are added up in another order, and rounding decides
        if fewer < count and weights[fewer] == weights[fewer - 1]:
            ids = _of_equals(batch.first_ids(width)[row][:count], weights[:count], fewer)
        count = fewer
    if config.min_p > 0:
        count = min(count, sum(weight >= config.min_p for weight in weights[:count]))
    place = min(bisect.bisect_right(masses, random.random() * masses[count - 1], 0, count), count - 1)
    mass = weights[place]
    if (place > 0 and weights[place - 1] == mass) or (place + 1 < count and weights[place + 1] == mass):
        first = weights.index(mass)
        ids = batch.first_ids(width)[row] if ids is None else ids
        return sorted(ids[first : min(first + weights.count(mass), count)])[place - first]  # of equal ones, by id
    return int(batch.ids[row, place]) if ids is None else ids[place]


def _kept(top: TopLogits, config: GenerationConfig, top_k: int, width: int) -> tuple[int, list[int] | None] | None:
    """How many tokens the first of top-k, top-p and min-p in use keeps, and which, likeliest first: ``None`` for the first ones.

    Of the first ``width`` of the largest logits; ``None`` where others may be kept too, and where all are.
    """
    batch, row = top.batch, top.row
    scaled = batch.scaled(config.temperature, width)
    weights = scaled.weights[row]
    if top_k > 0:
        count = top_k
        while count < width and weights[count] == weights[top_k - 1]:
            count += 1
    elif config.top_p < 1:
        masses = scaled.masses[row]
        low, high = _total(batch, row, masses[-1], width, config.temperature)
        count = bisect.bisect_left(masses, config.top_p * low) + 1
        if count > width or masses[count - 1] < config.top_p * high:
            return None
    elif config.min_p > 0:
        count = sum(weight >= config.min_p for weight in weights)
    else:
        return None
    if count >= width:
        return None
    if weights[count] == weights[count - 1]:  # top-p keeps some of equal tokens, so all of them must be known
        below = scaled.below[row].tolist()
        if below[-1] == below[count]:
            return None
        return count, _of_equals(batch.first_ids(width)[row], below, count)
    return count, None


def _of_equals(ids: list[int], scores: list[float], count: int) -> list[int]:
    """The ``count`` tokens that top-p keeps where others equal the last of them: those with the highest ids stay (Hugging Face)."""
    border = scores[count - 1]
    first = scores.index(border)
    equal = sorted((token for token, score in zip(ids, scores, strict=True) if score == border), reverse=True)
    return ids[:first] + equal[: count - first]


def _total(batch: TopBatch, row: int, seen: float, width: int, temperature: float) -> tuple[float, float]:
    """Bounds of the weight of all tokens, where the likeliest token's is 1.

    At temperature 1 the log-sum-exp says it. At another one a weight w becomes w ** (1 / temperature). Those of the first
    ``width`` tokens add up to ``seen``; the sum over the others is bounded by what makes it largest: few tokens, each as likely
    as the last of the first (a temperature below 1), or equal ones (above).
    """
    total = batch.totals[row]
    slack = (_ROUNDING + _SPACING * abs(batch.log_sum_exp[row])) * total
    if temperature == 1:
        return total - slack, total + slack
    own = batch.scaled(1.0, width).weights[row]
    count = batch.vocab_size - width
    mass = max(total - math.fsum(own), 0.0) + slack
    power, largest = 1 / temperature, own[-1]
    if not count:
        return seen, seen
    if power > 1:
        return seen, seen + mass * largest ** (power - 1)
    return seen, seen + min(count * (mass / count) ** power, count * largest**power)


def _with_logprobs(choice: int, top: TopLogits, count: int) -> Token:
    """``choice`` with its log-probability and those of the ``count`` likeliest tokens, likeliest first."""
    values = (top.values.astype(np.float64) - top.log_sum_exp).tolist()
    ids = top.ids.tolist()
    return Token(choice, values[ids.index(choice)], tuple(zip(ids[:count], values[:count], strict=True)))
