"""`tt-edge profile`: a table and JSON of the same prediction."""

from __future__ import annotations

import json

import pytest

from benchmarks.roofline_validation import MODELS

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MODELS["Qwen3-4B"]))
    return path


def test_json(tt_edge, config):
    result = tt_edge("profile", "--config", config, "--format", "nvfp4", "--isl", 2048, "--json")
    assert (result.status, result.err) == (0, "")
    facts = json.loads(result.out)
    assert [row["device"] for row in facts["devices"]] == ["thor", "spark", "rtx-5090"]
    assert "does not multiply in fp4" in facts["refused"]["orin-nx"]
    thor = facts["devices"][0]
    assert thor["decode"]["tokens_per_s"] == pytest.approx(73.7, rel=1e-3)  # the figure that it is fitted on
    for phase in ("prefill", "decode"):
        layers, whole = thor[phase]["layers"], thor[phase]
        assert sum(layer["ms"] for layer in layers) + whole["host_ms"] == pytest.approx(whole["ms"])
        assert sum(whole["ms_by_kind"].values()) + whole["host_ms"] == pytest.approx(whole["ms"])
        assert sum(layer["bytes"] for layer in layers) == pytest.approx(whole["bytes"])


def test_text(tt_edge, config):
    result = tt_edge("profile", "--config", config, "--device", "orin-agx", "--isl", 512, "--past", 1024, "--layers")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "batch 1, prompts of 512 tokens; decoding with 1,024 tokens in the cache"
    assert lines[2].startswith("orin-agx ")
    assert len([line for line in lines if line.endswith("layers.35.mlp.down_proj")]) == 2
    assert lines[-1] == "predicted from published bandwidths and peaks; not executed"


def test_the_host_takes_its_time(tt_edge, config):
    def ms(host_us):
        result = tt_edge("profile", "--config", config, "--device", "h100", "--host-us", host_us, "--json")
        return json.loads(result.out)["devices"][0]["decode"]["ms"]

    assert ms(1000) - ms(0) == pytest.approx(1.0)


def test_what_is_refused(tt_edge, config, pristine, tmp_path):
    tt_edge("profile").fails_with("give a bundle or --config", 2)
    tt_edge("profile", pristine, "--config", config).fails_with("give a bundle or --config", 2)
    tt_edge("profile", pristine).fails_with("multiplies in float32", 1)
    tt_edge("profile", "--config", tmp_path / "none.json").fails_with("cannot be read", 2)
    tt_edge("profile", "--config", config, "--device", "tx1").fails_with("device 'tx1' is not known", 2)
    tt_edge("profile", "--config", config, "--isl", 0).fails_with("new tokens is 0", 2)
    tt_edge("profile", "--config", config, "--host-us", -1).fails_with("--host-us is -1", 2)


def test_an_engine_that_does_not_run_here(tt_edge, pristine, config):
    """The bundle has no engine, and this machine no GPU."""
    tt_edge("profile", pristine, "--run").fails_with("engine", 1)
    tt_edge("profile", "--config", config, "--run").fails_with("--config is for predictions, and --run executes", 2)
    tt_edge("profile", pristine, "--run", "--device", "thor").fails_with("--device is for predictions", 2)
    tt_edge("profile", pristine, "--run", "--runs", 0).fails_with("--runs is 0; give at least 1", 2)
    tt_edge("profile", pristine, "--runs", 3).fails_with("--runs is for --run; omit it, or add --run", 2)
