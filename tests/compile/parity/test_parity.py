"""The captured network against Hugging Face: every family, head layout and precision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.compile.parity import check_parity, compare_layers_with
from tt_edge.config import Precision

DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("heads", ["gqa", "mha", "mqa"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_ragged_batch_and_one_row_equal_generate(family, heads, precision):
    model = tiny_model(family, heads, DTYPES[precision])
    converted = compiled(model, precision)
    report = check_parity(model, converted.network, converted.contract, precision, new_tokens=33)
    assert report.passed, report.render()
    assert [row.prompt_tokens for row in report.rows] == [48, 9, 24, 48]
    if precision is Precision.FP32:
        assert sum(row.ties + row.mismatches for row in report.rows) == 0
        assert report.relative_error < 1e-5


def test_full_logits_and_sliding_windows():
    model = tiny_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1,
                       layer_types=["full_attention", "sliding_attention"])  # fmt: skip
    converted = compiled(model, full_logits=True)
    assert len(converted.contract.output("logits").shape) == 3
    report = check_parity(model, converted.network, converted.contract, Precision.FP32, new_tokens=40)
    assert report.passed, report.render()


def test_network_is_tight():
    """Layers of a block stay near what one would write by hand (57 with constants)."""
    one, two = (compiled(tiny_model("qwen2", num_hidden_layers=n, dtype=torch.float16), Precision.FP16) for n in (1, 2))
    assert len(two.network.layers) - len(one.network.layers) <= 54
    kinds = two.network.kinds()
    assert (kinds["ATTENTION"], kinds["KV_CACHE_UPDATE"], kinds["ROTARY_EMBEDDING"]) == (2, 4, 4)


def test_a_wrong_weight_is_found_in_its_layer():
    model = tiny_model("llama")
    converted = compiled(model)
    weights = dict(converted.network.weights)
    key = "model.layers.1.mlp.up_proj.weight"
    weights[key] = np.array(weights[key]) * 1.01
    network = dataclasses.replace(converted.network, weights=weights)
    report = check_parity(model, network, converted.contract, Precision.FP32, new_tokens=8)
    assert not report.passed
    assert "DO NOT match" in report.render()
    comparison = compare_layers_with(model, network, converted.contract, list(range(3, 40)), 1e-4)
    assert "layers.1.mlp.up_proj" in comparison.first_over.layer
    assert any("layers.0" in row.layer and row.relative_l2 < 1e-5 for row in comparison.rows)
    assert "up_proj" in report.layers
