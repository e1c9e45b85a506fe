"""Positions of prompts with images whose tokens count as text does, but for their column, row and number (HunyuanOCR)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models.any_vlm import tiny_model
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.processed import Span
from tt_edge.runtime.multimodal.mrope import counted_positions

IMAGE = 300


def test_positions_equal_get_rope_index():
    """Images of several sizes, two of them, none."""
    model, generator = tiny_model("hunyuan_vl").model, np.random.default_rng(0)
    for count in (0, 1, 2, 3, 2, 1):
        ids, grids = [], []
        for _ in range(count):
            ids += [5] * generator.integers(1, 6)
            rows, columns = (int(side) for side in generator.integers(1, 7, 2))
            grids.append((1, 2 * rows, 2 * columns))
            ids += [IMAGE] * (rows * (columns + 1) + 2)
        ids += [5] * generator.integers(1, 6)
        is_image = np.array(ids) == IMAGE
        kinds = torch.from_numpy(is_image)[None].int()
        want, delta = model.get_rope_index(torch.tensor([ids]), kinds, torch.tensor(grids) if grids else None)
        got, ours = counted_positions(is_image, [Span(grid) for grid in grids], 2, axes=4)
        assert np.array_equal(got, want[:, 0].numpy())
        assert ours == int(delta)


@pytest.mark.parametrize("tokens", [7, 9])
def test_other_numbers_of_tokens_are_refused(tokens):
    """An image of 2 x 2 tokens has eight."""
    with pytest.raises(InvalidInputError, match="expand it again"):
        counted_positions([False] + [True] * tokens + [False], [Span((1, 4, 4))], 2)
