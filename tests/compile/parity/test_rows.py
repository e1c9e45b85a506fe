from __future__ import annotations

import numpy as np
import pytest

from tt_edge.compile.parity.rows import compare_row
from tt_edge.proof.golden import GoldenPrompt

LOWEST, HALF = np.finfo(np.float32).min, -65504.0


def logits(never, error=0.0):
    found = np.array([[1.0, -2.0, 3.0, 0.5], [-1.0, -2.0, -3.0, -4.0]], np.float32) + np.float32(error)
    found[:, 3] = never
    return found


def test_tokens_that_are_never_chosen_do_not_count_in_an_error():
    """Their logits are the lowest number of each type; beside it, an error in the others would not be seen."""
    row = compare_row(5, logits(HALF, 0.5), [2, 0], logits(HALF), logits(LOWEST))
    assert row.relative_error == pytest.approx(0.5 * 6**0.5 / 28**0.5)
    assert (row.reference_error, row.mismatches) == (0, 0)
    golden = GoldenPrompt.of([1], [2, 0], logits(HALF), logits(LOWEST))
    np.testing.assert_allclose(golden.norms, [14**0.5, 14**0.5], rtol=1e-6)


def test_a_token_that_is_chosen_though_it_never_is():
    wrong = logits(5.0)
    row = compare_row(5, wrong, [2, 0], logits(HALF), logits(LOWEST))
    assert row.mismatches == 2
    assert row.relative_error > 1
