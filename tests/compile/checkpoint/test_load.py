"""Loading checkpoints: what they may look like on disk, and what is wrong with those that do not load."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel
from transformers.utils import import_utils

from tests.models.any_vlm import write_any
from tests.models.tiny_models import tiny_model
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, MissingDependencyError, UnsupportedModelError


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2", tie_word_embeddings=True)


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def equal(a, b):
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name].to(left[name].dtype)) for name in left)


def test_one_file(model, tmp_path):
    assert equal(model, load_model(saved(model, tmp_path), Precision.FP32))


def test_shards(model, tmp_path):
    saved(model, tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert equal(model, load_model(tmp_path, Precision.FP32))


def test_tied_embeddings_are_one_tensor(model, tmp_path):
    loaded = load_model(saved(model, tmp_path), Precision.FP32)
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("precision", Precision)
def test_precision(model, tmp_path, precision):
    loaded = load_model(saved(model, tmp_path), precision)
    assert {p.dtype for p in loaded.parameters()} == {getattr(torch, precision.dtype.value)}
    assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def refused(folder, message, error=InvalidInputError):
    with pytest.raises(error, match=message) as caught:
        load_model(folder, Precision.FP32)
    assert "\n" not in str(caught.value)


def test_a_missing_shard(model, tmp_path):
    saved(model, tmp_path, max_shard_size="40KB")
    next(tmp_path.glob("model-00002*")).unlink()
    refused(tmp_path, "does not load")


def test_a_truncated_file(model, tmp_path):
    file = saved(model, tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path, "does not load")


def test_a_missing_weight(model, tmp_path):
    from safetensors.torch import load_file, save_file

    file = saved(model, tmp_path) / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    refused(tmp_path, r"weight model\.layers\.1\.mlp\.up_proj\.weight is missing \(1 in all\)")


def test_another_shape(model, tmp_path):
    config = saved(model, tmp_path) / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps({**data, "intermediate_size": 80}))
    refused(tmp_path, r"weight model\.layers\.0\.mlp\.\w+\.weight is \[")


def test_not_a_language_model(tmp_path):
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    refused(tmp_path, "model type 'vit' is neither a causal language model", UnsupportedModelError)


def test_a_folder_of_something_else(model, tmp_path):
    refused(tmp_path, "has no config.json; give the folder of a Hugging Face model")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "is not valid JSON .* download the checkpoint again")
    shutil.rmtree(tmp_path)
    refused(tmp_path, "does not exist; give a folder with config.json or a hub id")


def test_a_hub_id_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("nobody/no-such-model", "checkpoint nobody/no-such-model does not load")


def test_a_library_that_a_tower_needs(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    write_any("fast_vlm", tmp_path)
    message = import_utils.BACKENDS_MAPPING["timm"][1]
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "timm", (lambda: False, message))
    with pytest.raises(
        MissingDependencyError, match=r"requires the timm library .*; pip install 'tt-edge\[timm\]'"
    ) as found:
        load_model(tmp_path, Precision.FP32)
    assert "\n" not in str(found.value)
