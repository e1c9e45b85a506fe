"""The yardstick itself: dequantized weights beside those that each format's description packs, independent of the loader."""

from __future__ import annotations

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.test_load_quantized import CASES, GROUP, checkpoint
from tests.models.tiny_models import tiny_model
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.parity.references.dequantize import dequantized
from tt_edge.compile.parity.references.loading import clean_generation, exact_reference, greedy, load_reference
from tt_edge.config import Precision


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    monkeypatch.setattr(packing, "GROUP", GROUP)
    torch.manual_seed(0)


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_that_the_format_stands_for(tmp_path, case):
    truth = checkpoint(tmp_path, case)
    layers, others = dequantized(Checkpoint.open(tmp_path))
    assert len(layers) == 2 * 7
    assert "model.norm.weight" in others
    for name, layer in layers.items():
        torch.testing.assert_close(layer.weight, truth.get_submodule(name).weight, rtol=1e-5, atol=1e-7)
        assert (layer.prepare is not None) == case.startswith("modelopt")


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_loader(tmp_path, case):
    checkpoint(tmp_path, case)
    opened, ids = Checkpoint.open(tmp_path), torch.arange(3, 40)[None]
    theirs, ours = load_reference(opened, Precision.FP32), opened.load(Precision.FP32)
    a, b = theirs(ids).logits, ours(ids).logits
    assert (a - b).norm() < 1e-4 * a.norm()
    assert not any("Quantized" in type(module).__name__ for module in theirs.modules())


def test_the_truth_keeps_quantized_weights_exact_and_rounds_the_others(tmp_path):
    truth = checkpoint(tmp_path, "gptq")
    opened = Checkpoint.open(tmp_path)
    exact = exact_reference(opened, load_reference(opened, Precision.FP16), Precision.FP16)
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(exact.get_parameter(name), truth.get_parameter(name))
    embeddings = exact.get_input_embeddings().weight
    assert torch.equal(embeddings, truth.get_input_embeddings().weight.half().float())


def test_full_precision_is_transformers_own(tmp_path):
    tiny_model("qwen2").save_pretrained(tmp_path)
    opened = Checkpoint.open(tmp_path)
    model = load_reference(opened, Precision.FP16)
    assert model.dtype == torch.float16
    assert exact_reference(opened, model, Precision.FP16) is None


def test_clean_generation_and_the_checkpoints_own():
    model = tiny_model("qwen2")
    inputs = {"input_ids": torch.arange(3, 9)[None], "attention_mask": torch.ones(1, 6)}
    free, _ = greedy(model, inputs, 4)
    model.generation_config.suppress_tokens = [free[0]]
    held, scores = greedy(model, inputs, 4)
    assert held[0] != free[0]
    assert scores[0][free[0]] == -torch.inf
    with clean_generation(model):
        assert greedy(model, inputs, 4)[0] == free
    assert model.generation_config.suppress_tokens == [free[0]]
