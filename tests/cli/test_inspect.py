"""`tt-edge inspect`: the same facts as text and as JSON."""

from __future__ import annotations

import json
import re

import pytest

from examples.road_scenes.evaluate import CHECKPOINT as ROAD_SCENES
from tests.bundle.making import edit_manifest, write_bundle
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import FORMAT_VERSION
from tt_edge.cli import main

pytestmark = pytest.mark.xdist_group("cli")


def test_json(tt_edge, pristine):
    result = tt_edge("inspect", pristine, "--json")
    assert (result.status, result.err) == (0, "")
    facts, bundle = json.loads(result.out), Bundle.open(pristine)
    network, manifest = bundle.network(), bundle.manifest
    assert facts["layers"] == dict(network.kinds())
    assert facts["config"] == manifest.config.to_dict()
    assert facts["model"]["parameters"] == manifest.model.parameters
    assert facts["files"] == {name: record.size for name, record in manifest.files.items()}
    assert sum(w["bytes"] for w in facts["weights"].values()) == sum(network.weight_bytes().values())
    assert facts["kv_cache"] == {
        "tensors": 4,
        "in_place": True,
        "bytes_per_token": 2 * 2 * 2 * 32 * 4,  # layers, K and V, heads, head size, fp32
        "bytes_at_capacity": 2 * 64 * 2 * 2 * 2 * 32 * 4,  # rows, tokens
    }
    assert facts["decode"]["cached_tokens"] == 32
    assert facts["decode"]["tokens_per_s_at_most"]["Orin 64GB"] > 0
    assert [t["name"] for t in facts["inputs"]] == [t.name for t in manifest.contract.inputs]
    assert facts["engines"] == []
    forms = {p["platform"]: p["form"] for p in facts["platforms"]}
    assert forms["jetpack-7.2"] == "attention layers with a mask"
    assert forms["rtx"] == "as captured"
    assert all(p["builds"] and not p["reason"] for p in facts["platforms"])


def test_text(tt_edge, pristine, checkpoint):
    result = tt_edge("inspect", pristine)
    assert (result.status, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if not line.startswith(" ")]
    sections = {line[:13].strip(): line[13:] for line in lines}
    assert list(sections) == [
        "bundle", "model", "compiled", "limits", "engine I/O", "KV cache", "weights", "layers", "decode step",
        "platforms", "engines", "evidence",
    ]  # fmt: skip
    assert sections["bundle"].startswith(f"{pristine} (format {FORMAT_VERSION}, tt-edge ")
    assert sections["model"] == f"Qwen2ForCausalLM, 0.4 M parameters, from {checkpoint}"
    assert sections["compiled"].startswith("fp32, native backend")
    assert sections["limits"] == "batch 2, input 16 tokens, sequence 64 tokens"
    assert "input_ids            int64     [batch, sequence]" in sections["engine I/O"]
    assert sections["KV cache"].startswith("4 tensors, 1,024 bytes a token, 0.1 MB at capacity")
    assert "ATTENTION 2" in sections["layers"]
    assert re.fullmatch(
        r"jetpack-6\.2 +TensorRT 10\.3\.0 +matrix multiplies and a softmax, a KV .*", sections["platforms"]
    )
    assert sections["engines"] == "none"
    assert sections["evidence"].startswith("not executed")
    assert "(computed, not executed)" in result.out


def test_a_vision_language_model(tmp_path, capsys):
    """Both networks, and which part an engine is of."""
    out = str(tmp_path / "road.ttedge")
    limits = ["--max-seq-len", "192", "--max-image-tokens", "64", "--engine", "sm89"]
    assert main(["compile", str(ROAD_SCENES), "-o", out, *limits]) == 0
    capsys.readouterr()
    assert main(["inspect", out]) == 0
    page = capsys.readouterr().out
    assert "vision       4 to 64 image tokens in one call" in page
    assert re.search(r"patches +float16 +\[windows, 64, 1176\]", page)
    assert re.search(r"image_features +float16 +\[rows, 256\]", page)
    assert re.search(r"^(engines)? +sm89 ", page, re.MULTILINE)
    assert re.search(r"^(engines)? +vision sm89 ", page, re.MULTILINE)
    assert main(["inspect", out, "--json"]) == 0
    vision = json.loads(capsys.readouterr().out)["vision"]
    assert vision["max_image_tokens"] == 64
    assert vision["layers"]["ATTENTION"] > 0


def test_an_engine_in_an_older_form(tmp_path, capsys):
    """Its form, and the limits of its calls, where they are not the bundle's."""
    write_bundle(tmp_path / "b.ttedge")
    changes = {"form": "no_attention+no_attention_lengths", "max_input_len": 4, "max_image_tokens": 724}
    edit_manifest(tmp_path / "b.ttedge", lambda data: data["engines"][0].update(changes))
    assert main(["inspect", str(tmp_path / "b.ttedge")]) == 0
    expected = "0.0 MB, matrix multiplies and a softmax, up to 4 tokens a call, up to 724 image tokens a call; "
    assert expected in capsys.readouterr().out
