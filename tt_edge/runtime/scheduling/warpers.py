"""The steps of sampling: each function equals the Hugging Face logits warper of that name on the same scores. NumPy only.

The scores are changed in place; -inf marks what cannot be drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tt_edge.runtime.engine.top_logits import Scores

#: How many of the likeliest tokens top-p looks at before it sorts the whole vocabulary. Sorting 151,936 scores takes
#: 15 ms on one core of a server, partitioning them 1; the likeliest 1,024 hold the mass in all but flat distributions.
TOP_P_CANDIDATES = 1024


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
    weights = weights_of(scores)
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
    weights = weights_of(scores)  # the likeliest token's is 1
    scores[weights < p] = -np.inf


def draw(scores: Scores, uniform: float) -> int:
    """The token at ``uniform``, in [0, 1), of the distribution softmax(``scores``)."""
    cumulative = np.cumsum(weights_of(scores))
    index = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    if index == len(scores):  # the product was rounded up to the total
        index = int(np.flatnonzero(scores > -np.inf)[-1])
    return index


def weights_of(scores: Scores) -> NDArray[np.float64]:
    """Probabilities times a constant: 1 for the likeliest."""
    weights: NDArray[np.float64] = np.exp(scores - scores.max(), dtype=np.float64)
    return weights
