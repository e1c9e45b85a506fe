"""Edit distance, beside its definition."""

from __future__ import annotations

import random
from functools import cache

import pytest

from tt_edge.evaluation.edit_distance import edit_distance, error_rate


def by_definition(found: str, wanted: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        same = distance(i - 1, j - 1) + (found[i - 1] != wanted[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, same)

    return distance(len(found), len(wanted))


def test_as_defined():
    draw = random.Random(0)
    for _ in range(200):
        found, wanted = ("".join(draw.choices("abc", k=draw.randrange(9))) for _ in range(2))
        assert edit_distance(found, wanted) == by_definition(found, wanted), (found, wanted)


@pytest.mark.parametrize(
    ("pairs", "rate"),
    [
        ([("the cat sat", "the cat sat")], 0),
        ([("the cat", "the cat sat"), ("a", "b")], 0.5),
        ([("", "a b")], 1),
        ([("a b c", "a")], 2),
        ([("a", "")], 1),
        ([], 0),
    ],
)
def test_word_error_rate(pairs, rate):
    assert error_rate([(found.split(), wanted.split()) for found, wanted in pairs]) == rate
