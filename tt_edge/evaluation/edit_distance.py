"""How far a transcript is from the right one."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions that make ``wanted`` of ``found`` (Levenshtein).

    ``O(len(found) * len(wanted))``, a row of it in NumPy at a time.
    """
    numbers: dict[Hashable, int] = {}
    given, target = (np.array([numbers.setdefault(part, len(numbers)) for part in text]) for text in (found, wanted))
    places = np.arange(len(target) + 1)
    row = places  # edits from nothing to each beginning of the target
    for part in given:
        best = row + 1  # deleted
        best[1:] = np.minimum(best[1:], row[:-1] + (target != part))
        # Inserted: one more for each place since any earlier one.
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])


def error_rate(pairs: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> float:
    """Edits by the number of right parts (words, characters), over all ``pairs`` of what was found and what was wanted; it may
    exceed 1."""
    edits = sum(edit_distance(found, wanted) for found, wanted in pairs)
    return edits / max(1, sum(len(wanted) for _, wanted in pairs))
