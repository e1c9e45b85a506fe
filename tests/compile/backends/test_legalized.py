"""Every family in the form that older releases of TensorRT can build: tokens equal to ``generate()``, past windows too."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.compile.compiling import compiled, shared
from tests.models.tiny_models import FAMILIES, SHARING, tiny_model
from tt_edge.compile.parity import check_parity
from tt_edge.compile.parity.references.loading import clean_generation
from tt_edge.config import Precision
from tt_edge.network.build import build_engine
from tt_edge.network.legalize.legalize import legalize, needed_features
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.tensorrt_features import features_of_release

#: With a mask; with a cache that goes through the network too; without attention layers; JetPack 6.2's.
FORMS = ("10.16", "10.14", "10.13", "10.3")


@pytest.mark.parametrize("family", [*FAMILIES, *SHARING])
def test_greedy_tokens_equal_generate(family):
    """48 tokens after prompts of 48, 9 and 24, in a ragged batch, in chunks and one by one; windows are 8 tokens."""
    reference = shared(family)
    converted = compiled(reference.model)
    seen = set()
    for release in FORMS:
        legal = legalize(converted.network, features_of_release(release))
        assert needed_features(legal.network).keys() <= features_of_release(release)
        if legal.form in seen:  # as Gemma 2's, which has no attention layers
            continue
        seen.add(legal.form)
        contract = replace(converted.contract, kv_in_place=legal.form.in_place)
        report = check_parity(reference, legal.network, contract, Precision.FP32, new_tokens=48)
        assert report.passed, f"{legal.form}\n{report.render()}"
        assert sum(row.ties + row.mismatches for row in report.rows) == 0


@pytest.mark.parametrize("cache", ["none", "static_v1", "static_v2"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_sdpa_without_attention_layers(family, cache):
    reference = shared(family)
    converted = compiled(reference.model, backend="sdpa", cache=cache)
    legal = legalize(converted.network, features_of_release("10.3"))
    assert legal.network.kinds()["ATTENTION"] == 0
    report = check_parity(reference, legal.network, converted.contract, Precision.FP32, new_tokens=48)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0


@pytest.mark.parametrize(("family", "release"), [("qwen2", "10.16"), ("gemma2", "10.14"), ("phi3", "10.3")])
def test_an_engine_is_built(tensorrt, family, release):
    converted = compiled(shared(family, Precision.FP16).model, Precision.FP16)
    legal = legalize(converted.network, features_of_release(release))
    assert build_engine(tensorrt, legal.network, converted.contract.profiles(), "sm89", io.BytesIO()).bytes


def test_the_form_with_a_mask_has_hardly_more_layers():
    """13 layers make the mask, however many layers share it."""
    model = tiny_model("qwen2", num_hidden_layers=4)
    network = compiled(model).network
    legal = legalize(network, features_of_release("10.16"))
    assert len(legal.network.layers) <= 1.15 * len(network.layers)
    assert len(legal.network.layers) - len(network.layers) == 13


#: What a user says in three turns, of unequal length in each; windows are 8 tokens, so every turn outgrows them.
TURNS = [[list(range(5, 25)), [7, 8, 9], list(range(40, 53))], [[90, 91], list(range(60, 79)), [3]],
         [list(range(100, 109)), [12], list(range(30, 41))]]  # fmt: skip


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_turns_of_a_conversation_equal_generate(family):
    """Three turns of 16 tokens each in a ragged batch, prompts in pieces of 6; PyTorch answers each whole history."""
    model, converted, want = shared(family).model, compiled(shared(family).model), []
    histories = [[] for _ in TURNS[0]]
    with clean_generation(model):
        for turn in TURNS:
            for history, said in zip(histories, turn, strict=True):
                history += said
                ids = torch.tensor([history])
                with torch.no_grad():
                    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16)
                history += out[0, len(history) :].tolist()
                want.append(history[-16:])
    for release in FORMS:
        legal = legalize(converted.network, features_of_release(release))
        contract = replace(converted.contract, kv_in_place=legal.form.in_place)
        with ReferenceSession(legal.network, contract) as session:
            session.reset(len(TURNS[0]))
            got, last = [], [[] for _ in TURNS[0]]
            for turn in TURNS:
                fed = [[*end, *said] for end, said in zip(last, turn, strict=True)]
                answers = continued(session, fed, 16)
                got += answers
                last = [answer[-1:] for answer in answers]  # chosen, not yet in the cache
        assert got == want, legal.form


def continued(session, prompts, count):
    """Greedy tokens of each slot, whose cache goes on; no more than 6 tokens a call."""
    tokens, logits = [[] for _ in prompts], [None] * len(prompts)
    left = [list(prompt) for prompt in prompts]
    for step in range(count + max(map(len, prompts))):
        if step and not any(left):
            for slot, row in enumerate(logits):
                tokens[slot].append(int(row.argmax()))
            if len(tokens[0]) == count:
                return tokens
            left = [answer[-1:] for answer in tokens]
        lengths = [min(6, len(ids)) for ids in left]
        ids = np.zeros((len(left), max(lengths)), np.int64)
        for slot, length in enumerate(lengths):
            ids[slot, :length] = left[slot][:length]
            left[slot] = left[slot][length:]
        out = session.forward(ids, np.array(lengths))
        logits = [out[slot].copy() if length else logits[slot] for slot, length in enumerate(lengths)]
    raise AssertionError
