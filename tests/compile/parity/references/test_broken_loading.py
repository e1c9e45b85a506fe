"""The compile's loading is broken on purpose, and stays broken while `verify`, `run_llm.py` and `eval --model` look: each must say
so each time."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from examples import run_llm
from examples.tiny_checkpoint import make_checkpoint, make_tokenizer
from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.test_load_quantized import CASES, GROUP
from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.cli import main
from tt_edge.compile.checkpoint import Checkpoint, load, tokenizer_files
from tt_edge.compile.checkpoint.prequantized import shards
from tt_edge.compile.checkpoint.prequantized.compressed_tensors import CompressedTensorsReader
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget

CONFIG = CompileConfig.of(precision="fp32", max_batch=1, max_input_len=32, max_seq_len=48)


PROMPT = "The light <|odd|> ahead is red."


def compiled(folder, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    output = tmp_path / "out.ttedge"
    compile_checkpoint(str(folder), output, CONFIG, EngineTarget(()), progress=False)
    return output


def report_of(folder, tmp_path, capsys):
    """What ``verify`` says; the other two must agree with it."""
    output = compiled(folder, tmp_path)
    report = verify_bundle(Bundle.open(output), folder, new_tokens=6)
    assert others_match(folder, output, capsys) == (report.passed,) * 2
    return report


def others_match(folder, output, capsys):
    """Whether ``run_llm.py`` and ``eval --model`` find the two sides equal."""
    capsys.readouterr()
    asked = ["--from_bundle", str(output), "--model", str(folder), "--precision", "FP32", "--enable_pytorch_run"]
    status = run_llm.main([*asked, "--prompt", PROMPT, "--num_tokens", "12"])
    assert ("match: False" in capsys.readouterr().out) == bool(status)
    data = output.parent / "questions.jsonl"
    data.write_text(json.dumps({"prompt": PROMPT, "answer": "so the car stops"}) + "\n")
    assert main(["eval", str(output), "--model", str(folder), "--data", str(data), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    equal = row["network"]["perplexity"] == pytest.approx(row["pytorch"]["perplexity"], rel=1e-4)
    return not status, equal


def broken_load(monkeypatch, damage):
    original = load.load_model

    def loaded(source, precision):
        model = original(source, precision)
        damage(model)
        return model

    monkeypatch.setattr(load, "load_model", loaded)


@pytest.fixture
def fp8(tmp_path, monkeypatch):
    """A checkpoint of FP8 weights with a scale for each channel."""
    monkeypatch.setattr(packing, "GROUP", GROUP)
    torch.manual_seed(0)
    config, make, *_ = CASES["fp8-channels"]
    folder = tmp_path / "fp8"
    packing.write_model(folder, tiny_model("qwen2"), config, make)
    make_tokenizer(320).save_pretrained(folder)
    return folder


@pytest.fixture
def trained(tmp_path):
    make_checkpoint(tmp_path / "tiny", steps=5)
    return tmp_path / "tiny"


def test_nothing_is_broken(fp8, tmp_path, capsys):
    assert report_of(fp8, tmp_path, capsys).passed


def test_a_dropped_scale(fp8, tmp_path, monkeypatch, capsys):
    original = CompressedTensorsReader.read

    def without_scale(self, layer, tensors):
        weight = original(self, layer, tensors)
        return dataclasses.replace(weight, scale=torch.full_like(weight.scale, 0.01))

    monkeypatch.setattr(CompressedTensorsReader, "read", without_scale)
    report = report_of(fp8, tmp_path, capsys)
    assert not report.logits_passed
    assert "DO NOT match" in report.render()


def test_stale_shards(fp8, tmp_path, monkeypatch, capsys):
    """An index of older shards beside model.safetensors, which transformers takes."""
    stale = tmp_path / "stale"
    config, make, *_ = CASES["fp8-channels"]
    packing.write_model(stale, tiny_model("qwen2", seed=1), config, make)
    shutil.copy(stale / "model.safetensors", fp8 / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(shards.Shards(fp8), "model-00001-of-00001.safetensors")
    (fp8 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    monkeypatch.setattr(shards, "safetensors_files", lambda folder: ["model-00001-of-00001.safetensors"])
    assert not report_of(fp8, tmp_path, capsys).logits_passed


def test_a_wrong_tie(tmp_path, monkeypatch, capsys):
    model = tiny_model("qwen2", tie_word_embeddings=False)
    folder = tmp_path / "own-head"
    model.save_pretrained(folder)
    make_tokenizer(320).save_pretrained(folder)
    broken_load(monkeypatch, lambda m: setattr(m.lm_head, "weight", m.model.embed_tokens.weight))
    output = compiled(folder, tmp_path)
    data = json.loads((output / "manifest.json").read_text())
    data["model"]["parameters"] += model.lm_head.weight.numel()  # otherwise the count would already reveal it
    (output / "manifest.json").write_text(json.dumps(data))
    assert not verify_bundle(Bundle.open(output), folder, new_tokens=6).logits_passed
    assert others_match(folder, output, capsys) == (False, False)


def test_a_swapped_tensor(trained, tmp_path, monkeypatch, capsys):
    def swap(model):
        attention = model.model.layers[0].self_attn
        attention.k_proj.weight, attention.v_proj.weight = attention.v_proj.weight, attention.k_proj.weight

    broken_load(monkeypatch, swap)
    report = report_of(trained, tmp_path, capsys)
    assert not report.logits_passed
    assert report.tokenizer.passed
    assert "layers.0" in report.layers


def test_a_tokenizer_without_its_added_tokens(tmp_path, monkeypatch, capsys):
    """They stand in tokenizer_config.json only, and the broken compile takes tokenizer.json as it lies there."""
    folder = tmp_path / "more-tokens"
    tiny_model("qwen2").save_pretrained(folder)
    make_tokenizer(300).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    content = json.loads((folder / "tokenizer.json").read_text())
    new = max(token["id"] for token in content["added_tokens"]) + 1
    new = max(new, len(content["model"]["vocab"]))
    token = {
        "content": "<|odd|>",
        "special": True,
        "normalized": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
    }
    settings["added_tokens_decoder"] = {**settings.get("added_tokens_decoder", {}), str(new): token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Checkpoint.open(folder).tokenizer.convert_tokens_to_ids("<|odd|>") == new
    assert report_of(folder, tmp_path / "right", capsys).passed

    def as_they_lie(checkpoint):
        names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        return iter([(name, checkpoint.read_bytes(name)) for name in names if checkpoint.has(name)])

    monkeypatch.setattr(tokenizer_files, "tokenizer_files", as_they_lie)
    report = report_of(folder, tmp_path / "broken", capsys)
    assert report.logits_passed
    assert not report.passed
    assert any("<|odd|>" in text for text in report.tokenizer.differing)
    assert "NO MATCH" in report.render()
    assert {e.claim: e.word for e in report.evidence()}["tokenizer"] == "failed"
