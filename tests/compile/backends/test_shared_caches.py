"""Gemma 3n, and Gemma 4's E models: their last layers attend to keys and values of earlier ones, and have no cache."""

from __future__ import annotations

import io

import pytest
import torch

from tests.compile.compiling import compiled, shared
from tests.models.tiny_models import SHARING, tiny_model
from tt_edge.compile.parity import check_parity
from tt_edge.config import Precision
from tt_edge.network.build import build_engine

BACKENDS = {
    "gemma4": [("native", None), ("sdpa", "static_v1"), ("sdpa", "static_v2")],
    "gemma3n": [("native", None)],
}


def grouped(families):
    return [pytest.param(family, marks=pytest.mark.xdist_group(f"sharing-{family}")) for family in families]


@pytest.mark.parametrize("family", grouped(SHARING))
def test_greedy_tokens_equal_generate(family):
    """48 tokens after prompts of 48, 9 and 24, in a ragged batch and one by one; windows are 8 tokens."""
    reference = shared(family)
    for backend, cache in BACKENDS[family]:
        converted = compiled(reference.model, backend=backend, cache=cache)
        report = check_parity(reference, converted.network, converted.contract, Precision.FP32, new_tokens=48)
        assert report.passed, report.render()
        assert sum(row.ties + row.mismatches for row in report.rows) == 0
        assert converted.network.kinds()["ATTENTION"] == 4
        names = [pair.past for pair in converted.contract.kv_cache]
        assert names == ["past_key_0", "past_value_0", "past_key_1", "past_value_1"]


@pytest.mark.parametrize("family", grouped(SHARING))
def test_half_precision_is_as_near_the_truth_as_pytorch(tensorrt, family):
    model = tiny_model(family, dtype=torch.float16)
    converted = compiled(model, Precision.FP16)
    report = check_parity(model, converted.network, converted.contract, Precision.FP16, new_tokens=16)
    assert report.passed, report.render()
    file = io.BytesIO()
    profiles = converted.contract.profiles()[:1]
    assert build_engine(tensorrt, converted.network, profiles, "sm89", file).bytes == file.tell()
