from __future__ import annotations

import numpy as np
import pytest

from tests.models.decoders import SHAPE, compiled
from tt_edge.errors import CapacityError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate

RNG = np.random.default_rng(1)
PROMPTS = [RNG.integers(0, SHAPE.vocabulary, size).tolist() for size in (5, 1, 19, 8)]


def from_scratch(prompt: list[int], count: int) -> list[int]:
    """Greedy tokens with an empty cache before every token."""
    session = ReferenceSession(*compiled(1, SHAPE.capacity))
    new: list[int] = []
    for _ in range(count):
        session.reset(1)
        ids = np.array([prompt + new])
        new.append(int(session.forward(ids, np.array([ids.shape[1]])).argmax()))
    return new


@pytest.mark.parametrize(("max_batch", "max_input_len"), [(4, 48), (4, 6), (2, 8), (1, 1)])
def test_cached_generation_equals_recomputation(max_batch, max_input_len):
    session = ReferenceSession(*compiled(max_batch, max_input_len))
    results = generate(session, PROMPTS, GenerationConfig(12))
    assert [r.new_token_ids for r in results] == [from_scratch(p, 12) for p in PROMPTS]


def test_generation_up_to_the_capacity():
    prompt = PROMPTS[0]
    session = ReferenceSession(*compiled())
    (result,) = generate(session, [prompt], GenerationConfig(SHAPE.capacity - len(prompt)))
    assert result.new_token_ids == from_scratch(prompt, SHAPE.capacity - len(prompt))
    with pytest.raises(CapacityError):
        generate(session, [prompt], GenerationConfig(SHAPE.capacity - len(prompt) + 1))


def test_a_rewound_row_forgets():
    session = ReferenceSession(*compiled())
    session.reset(2)
    ids = np.array([PROMPTS[0], PROMPTS[2][:5]])
    expected = session.forward(ids, np.array([5, 5])).copy()
    session.truncate([2, 3])
    again = session.forward(np.array([PROMPTS[0][2:], [*PROMPTS[2][3:5], 0]]), np.array([3, 2]))
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-5)


def test_word():
    assert ReferenceSession(*compiled()).word == "evaluated by the reference session"
