"""The two buffers of a cache that goes through the network, the part of a cache that a step is bound to, and CUDA graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.compile.compiling import compiled as compiled_model
from tests.models.decoders import SHAPE, compiled
from tests.models.tiny_models import tiny_model
from tests.runtime.engine.fake_session import Fake, fake, names
from tests.runtime.engine.test_reference_session import PROMPTS, from_scratch
from tt_edge.contract import GENERATION_PROFILE
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.legalize.contract import in_form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.tensorrt_features import FEATURES, KV_CACHE_UPDATE

__all__ = ["fake"]


@pytest.mark.parametrize("cache", ["none", "static_v1", "static_v2"])
def test_a_cache_that_goes_through_the_network(monkeypatch, tmp_path, cache):
    """Two buffers change places; rows of unequal length make their steps one by one, in their own part of them."""
    converted = compiled_model(tiny_model("llama"), backend="sdpa", cache=cache)
    fake = Fake(monkeypatch, tmp_path, converted.network, converted.contract)
    with ReferenceSession(converted.network, converted.contract) as session:
        want = generate(session, PROMPTS, GenerationConfig(6))
    with fake.open() as session:
        memory = len(fake.cuda.memory)
        got = generate(session, PROMPTS, GenerationConfig(6))
        assert len(fake.cuda.memory) == memory
    assert [r.new_token_ids for r in got] == [r.new_token_ids for r in want]


@pytest.mark.parametrize("cache", ["in place", "static_v1", "static_v2"])
def test_a_step_of_any_slots_uses_their_part_of_the_cache(monkeypatch, tmp_path, cache):
    """Also when slots were stepped a different number of times, so that their pasts are in different buffers."""
    if cache == "in place":
        fake = Fake(monkeypatch, tmp_path)
    else:
        converted = compiled_model(tiny_model("llama"), backend="sdpa", cache=cache)  # owns the network's memory
        fake = Fake(monkeypatch, tmp_path, converted.network, converted.contract)
    steps = [
        (1, 1, 3),
        (0, 1, 2),
        (1, 2, 2),
        (0, 2, 1),
        (2, 1, 4),
        (0, 3, 1),
        (0, 3, 1),
        (0, 3, 1),
        (1, 2, 1),
        (0, 1, 1),
    ]
    results = []
    with ReferenceSession(fake.network, fake.contract) as reference, fake.open() as session:
        for one in (reference, session):
            assert one.starts_anywhere
            one.reset(3)
            random = np.random.default_rng(0)
            results.append([])
            for first, count, width in steps:
                ids = random.integers(0, one.contract.vocab_size, (count, width))
                lengths = random.integers(0, width + 1, count) if width > 1 else np.ones(count, np.int64)
                logits = one.forward(ids, lengths, first=first)
                results[-1] += [row.copy() for row, length in zip(logits, lengths, strict=True) if length]
            kept = [one.read_kv(slot, [0] * int(past)) for slot, past in enumerate(one.past_lengths)]
            results[-1] += [data for prefix in kept for data in prefix.tensors.values()]
    for got, want in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(got.view(np.float32), want.view(np.float32), rtol=1e-4, atol=1e-5)


def test_slots_whose_cache_is_at_an_address_that_tensorrt_may_not_take(monkeypatch, tmp_path):
    """33 tokens of 24 bytes per head: calls begin at slot 0, and what they give is the same."""
    network, contract = compiled(shape=replace(SHAPE, capacity=33))
    fake = Fake(monkeypatch, tmp_path, network, contract)
    with fake.open() as session:
        assert not session.starts_anywhere
        results = generate(session, PROMPTS, GenerationConfig(10))
        with pytest.raises(InvalidInputError, match=r"a call cannot begin at slot 1; give 0$"):
            session.forward(np.ones((1, 1), np.int64), np.ones(1, np.int64), first=1)
    assert [r.new_token_ids for r in results] == [from_scratch(p, 10) for p in PROMPTS]


def test_decode_steps_of_slots_from_the_second_on_become_a_graph(fake):
    with fake.open() as session:
        session.reset(3)
        for first, launches in [(1, 0), (1, 1), (1, 2), (0, 2), (0, 3), (1, 3)]:
            session.forward(np.zeros((2, 1), np.int64), np.ones(2, np.int64), first=first)
            assert fake.cuda.launches == launches


def test_a_graph_is_for_one_batch_and_is_made_again_after_another(fake):
    with fake.open() as session:
        session.reset(2)
        for batch, launches, graphs in [(2, 0, 0), (2, 1, 1), (2, 2, 1), (1, 2, 0), (1, 3, 1), (2, 3, 0), (2, 4, 1)]:
            session.forward(np.zeros((batch, 1), np.int64), np.ones(batch, np.int64))
            assert (fake.cuda.launches, len(fake.cuda.graphs)) == (launches, graphs)
    assert fake.cuda.graphs == {}
    assert fake.engine.executed == [GENERATION_PROFILE] * 7


def test_without_graphs_where_the_engine_cannot_be_captured(fake):
    fake.cuda.refuses_capture = True
    with fake.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(10))
        assert names(fake.calls).count("cudaStreamBeginCapture") == 1  # tried once, not again
    assert fake.cuda.launches == 0
    assert [r.new_token_ids for r in results] == [from_scratch(p, 10) for p in PROMPTS]


@pytest.fixture
def through(monkeypatch, tmp_path):
    """A session in a form whose cache goes through the network, as before TensorRT 10.15."""
    network, contract = compiled()
    legal = legalize(network, set(FEATURES) - {KV_CACHE_UPDATE})
    assert not legal.form.in_place
    return Fake(monkeypatch, tmp_path, legal.network, in_form(contract, legal.form))


def test_two_buffers_that_change_places_have_a_graph_for_each_order(through):
    with through.open() as session:
        session.reset(2)
        counts = []
        for batch in (2, 2, 2, 2, 2, 2, 1, 1, 1, 1):
            session.forward(np.zeros((batch, 1), np.int64), np.ones(batch, np.int64))
            counts.append((through.cuda.launches, len(through.cuda.graphs)))
    # One step in each order outside a graph, one that captures each, then launches only; again for another batch.
    assert counts == [(0, 0), (0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (4, 0), (4, 0), (5, 1), (6, 2)]
    assert through.cuda.graphs == {}


def test_steps_in_graphs_of_two_buffers_give_what_the_reference_does(through):
    """Prompts of several calls between the decode steps, and slots that end at different times."""
    with through.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(20))
        assert names(through.calls).count("cudaStreamBeginCapture") >= 2
        bound = names(through.calls).count("set_tensor_address")
        session.reset(1)
        for _ in range(6):  # the graphs of the last slots, which have the addresses of both orders
            session.forward(np.zeros((1, 1), np.int64), np.ones(1, np.int64))
        assert names(through.calls).count("set_tensor_address") == bound
    assert through.cuda.launches == 17
    assert [r.new_token_ids for r in results] == [from_scratch(p, 20) for p in PROMPTS]


def test_two_buffers_without_graphs(through):
    through.cuda.refuses_capture = True
    with through.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(10))
    assert names(through.calls).count("cudaStreamBeginCapture") == 1
    assert [r.new_token_ids for r in results] == [from_scratch(p, 10) for p in PROMPTS]
