"""A checkpoint opened once: from a folder, and from a hub id in the local cache."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from tests.models.tiny_models import tiny_model
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.checkpoint import looks_like_path
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_model("qwen2").save_pretrained(folder)
    return folder


@pytest.fixture
def hub_id(folder, tmp_path, monkeypatch):
    """An id whose snapshot lies in the hub's cache, laid out as huggingface_hub lays it out; nothing is downloaded."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return "someone/tiny"


def test_a_folder(folder):
    checkpoint = Checkpoint.open(f"{folder}/")
    assert (checkpoint.name, checkpoint.is_hub_id, os.fspath(checkpoint)) == ("tiny", False, str(folder))
    assert checkpoint.settings["model_type"] == checkpoint.config.model_type == "qwen2"
    assert checkpoint.quantization is None
    assert checkpoint.config is checkpoint.config
    assert Checkpoint.open(checkpoint) is checkpoint


def test_a_hub_id(hub_id, folder):
    checkpoint = Checkpoint.open(hub_id)
    assert (checkpoint.source, checkpoint.name, checkpoint.is_hub_id) == (hub_id, "tiny", True)
    assert checkpoint.folder.name == COMMIT
    ours, theirs = checkpoint.load(Precision.FP32), Checkpoint.open(folder).load(Precision.FP32)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_hub_id_that_is_not_in_the_cache(hub_id):
    with pytest.raises(
        InvalidInputError, match=r"checkpoint nobody/none does not load: .*; check the id, the network"
    ) as e:
        Checkpoint.open("nobody/none")
    assert "\n" not in str(e.value)


def test_the_name_of_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert Checkpoint.open(".").name == "tiny"


def test_a_tokenizer_needs_no_configuration(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert Checkpoint.open_tokenizer(tmp_path).has("tokenizer.json")
    with pytest.raises(InvalidInputError, match=r"has no config\.json"):
        Checkpoint.open(tmp_path)


def test_files_that_are_no_json_objects(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(
        InvalidInputError, match=r"config\.json is not valid JSON \(it holds a list, not an object\); download"
    ):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match=r"generation_config\.json is not valid JSON"):
        _ = Checkpoint.open(tmp_path).generation_settings


def test_quantization_is_read_off_its_settings(folder, tmp_path):
    settings = {**Checkpoint.open(folder).settings, "quantization_config": {"quant_method": "awq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.quantization.method == "awq"
    with pytest.raises(InvalidInputError, match=r"is quantized already, as awq .*omit --quant fp8"):
        checkpoint.check_not_quantized("fp8")


def test_what_is_a_path():
    assert not any(looks_like_path(name) for name in ("gpt2", "Qwen/Qwen3-0.6B"))
    assert all(looks_like_path(name) for name in ("/a", "./a", "~/a", "a/b/c", "a/"))
