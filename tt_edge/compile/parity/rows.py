"""Comparing the logits and greedy tokens of one prompt."""

from __future__ import annotations

import numpy as np

from tt_edge.compile.parity.report import RowParity
from tt_edge.proof.sketch import without_never


def compare_row(
    prompt_tokens: int, logits: np.ndarray, tokens: list[int], own: np.ndarray, exact: np.ndarray, pictures: int = 0
) -> RowParity:
    """Compare ``logits`` ``[T, V]`` with those that chose PyTorch's ``tokens``: its ``own``, and ``exact`` ones in fp32."""
    chosen = logits.argmax(-1)
    wrong = np.flatnonzero(chosen != np.array(tokens))
    margins = own[wrong, np.array(tokens)[wrong]] - own[wrong, chosen[wrong]]
    logits, own, exact = (without_never(each) for each in (logits, own, exact))
    norm = float(np.linalg.norm(exact))
    # Two logits, each off by the largest error on either side.
    slack = 2 * (np.abs(logits - exact).max(-1)[wrong] + np.abs(own - exact).max(-1)[wrong])
    ties = margins <= slack
    mismatched = wrong[~ties]
    return RowParity(
        prompt_tokens=prompt_tokens,
        relative_error=float(np.linalg.norm(logits - exact)) / norm,
        reference_error=float(np.linalg.norm(own - exact)) / norm,
        tokens=len(tokens),
        ties=int(ties.sum()),
        mismatches=len(mismatched),
        first_mismatch=int(mismatched[0]) if len(mismatched) else None,
        logit_error=float(np.abs(logits - exact).max() + np.abs(own - exact).max()),
        pictures=pictures,
    )
