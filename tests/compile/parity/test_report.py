"""What a report of a parity check says."""

from __future__ import annotations

import pytest

from tt_edge.compile.parity.report import ParityReport, RowParity


@pytest.mark.parametrize(("own", "is_said"), [(1e-3, False), (0.24, False), (0.26, True)])
def test_a_comparison_that_proves_little_says_so(own, is_said):
    """A network of zeros would pass where PyTorch's own error is half of the truth."""
    row = RowParity(8, own, own, tokens=4, ties=0, mismatches=0, first_mismatch=None)
    page = ParityReport("fp16", (row,), 2 * own).render()
    assert "match" in page
    assert ("this comparison proves little" in page) is is_said
