"""Every family in the form that older releases of TensorRT can build: tokens equal to ``generate()``, past windows too."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

from tests.compile.compiling import compiled
from tests.tiny_models import FAMILIES, tiny_model
from tt_edge.compile.parity import check_parity
from tt_edge.config import Precision
from tt_edge.network.build import build_engine
from tt_edge.network.legalize import legalize, needed_features
from tt_edge.tensorrt_features import features_of_release

#: With a mask; with a cache that goes through the network too; without attention layers; JetPack 6.2's.
FORMS = ("10.16", "10.14", "10.13", "10.3")


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_generate(family):
    """48 tokens after prompts of 48, 9 and 24, in a ragged batch, in chunks and one by one; windows are 8 tokens."""
    model = tiny_model(family)
    converted = compiled(model)
    seen = set()
    for release in FORMS:
        legal = legalize(converted.network, features_of_release(release))
        assert needed_features(legal.network).keys() <= features_of_release(release)
        if legal.form in seen:  # as Gemma 2's, which has no attention layers
            continue
        seen.add(legal.form)
        contract = replace(converted.contract, kv_in_place=legal.form.in_place)
        report = check_parity(model, legal.network, contract, Precision.FP32, new_tokens=48)
        assert report.passed, f"{legal.form}\n{report.render()}"
        assert sum(row.ties + row.mismatches for row in report.rows) == 0


@pytest.mark.parametrize("cache", ["none", "static_v1", "static_v2"])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_sdpa_without_attention_layers(family, cache):
    model = tiny_model(family)
    converted = compiled(model, backend="sdpa", cache=cache)
    legal = legalize(converted.network, features_of_release("10.3"))
    assert legal.network.kinds()["ATTENTION"] == 0
    report = check_parity(model, legal.network, converted.contract, Precision.FP32, new_tokens=48)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0


@pytest.mark.parametrize(("family", "release"), [("qwen2", "10.16"), ("gemma2", "10.14"), ("phi3", "10.3")])
def test_an_engine_is_built(tensorrt, family, release):
    converted = compiled(tiny_model(family, dtype=torch.float16), Precision.FP16)
    legal = legalize(converted.network, features_of_release(release))
    assert build_engine(tensorrt, legal.network, converted.contract.profiles(), "sm89", io.BytesIO()).bytes


def test_the_form_with_a_mask_has_hardly_more_layers():
    """13 layers make the mask, however many layers share it."""
    model = tiny_model("qwen2", num_hidden_layers=4)
    network = compiled(model).network
    legal = legalize(network, features_of_release("10.16"))
    assert len(legal.network.layers) <= 1.15 * len(network.layers)
    assert len(legal.network.layers) - len(network.layers) == 13
