"""Sketches: linear, unbiased, and the same on every machine."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.proof.sketch import COLUMNS, _signs, sketch, squared_length


@pytest.mark.parametrize("length", [100, 50_257])
def test_lengths_are_estimated(length):
    vectors = np.random.default_rng(0).normal(size=(64, length)).astype(np.float32)
    estimate = squared_length(sketch(vectors)).sum()
    assert estimate == pytest.approx(np.square(vectors.astype(np.float64)).sum(), rel=0.1)  # 3 standard deviations


def test_a_difference_in_one_element_is_seen_whole():
    vectors = np.zeros((1, 1000), np.float32)
    vectors[0, 421] = 3
    assert squared_length(sketch(vectors)) == 9


def test_it_is_linear():
    one, other = np.random.default_rng(1).normal(size=(2, 5, 300)).astype(np.float32)
    np.testing.assert_allclose(sketch(one) - sketch(other), sketch(one - other), atol=1e-4)


def test_signs_are_those_of_every_machine():
    signs = _signs(4)
    assert signs.shape == (4, COLUMNS)
    bits = [int("".join("1" if s > 0 else "0" for s in row[::-1]), 2) for row in signs]

    def finalized(index: int) -> int:
        x = index * 0x9E3779B1 & 0xFFFFFFFF
        for shift, factor in ((15, 0x85EBCA6B), (13, 0xC2B2AE35)):
            x = (x ^ x >> shift) * factor & 0xFFFFFFFF
        return x ^ x >> 16

    assert bits == [finalized(index) for index in range(1, 5)]


def test_columns_are_balanced_and_uncorrelated():
    signs = _signs(100_000).astype(np.float64)
    products = signs.T @ signs / len(signs)
    assert np.abs(products - np.eye(COLUMNS)).max() < 0.02
    assert np.abs(signs.mean(0)).max() < 0.02
