"""tt-edge build: engines for a finished bundle, without PyTorch."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tt_edge.bundle import Bundle


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy.ttedge")


def test_engines_are_added(tt_edge, copy):
    before = len(Bundle.open(copy).manifest.engines)
    result = tt_edge("build", copy, "--engine", "sm86,sm120", "--workspace", 64)
    assert result.status == 0, result.err
    assert [line.split(": ")[1].split(",")[0] for line in result.out.splitlines()] == [
        "engine for sm86",
        "engine for sm120",
    ]
    opened = Bundle.open(copy)
    assert opened.verify() == []
    assert {e.compute_capability for e in opened.manifest.engines} >= {"sm86", "sm120"}
    assert len(opened.manifest.engines) == before + 2
    assert "engine for sm120, tensorrt_rtx" in tt_edge("inspect", copy).out


def test_json(tt_edge, copy):
    [record] = json.loads(tt_edge("build", copy, "--engine", "sm89", "--json").out)
    assert record["compute_capability"] == "sm89"
    assert (copy / record["file"]).stat().st_size == record["bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "sm999"], "no target sm999"),
        (["--engine", "none"], "--engine none builds nothing"),
        (["--engine", "gpu"], "is not of the form sm89"),
        (["--engine", "sm89", "--workspace", "0"], "a workspace of 0 bytes"),
        (["--engine", "sm89", "--version-compatible"], "builds no version-compatible engines"),
    ],
)
def test_bad_input(tt_edge, copy, arguments, message):
    manifest = (copy / "manifest.json").read_bytes()
    result = tt_edge("build", copy, *arguments)
    assert result.status != 0
    assert message in result.err
    assert result.err.count("\n") == 1
    assert (copy / "manifest.json").read_bytes() == manifest


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to build for")
def test_local_without_a_gpu(tt_edge, copy):
    result = tt_edge("build", copy)
    assert (result.status, result.out) == (1, "")
    assert "no usable GPU" in result.err
    assert "sm89" in result.err


def test_a_damaged_network(tt_edge, copy):
    (copy / "decoder/network.json").write_text("{}")
    result = tt_edge("build", copy, "--engine", "sm89")
    assert result.status != 0
    assert "network.json" in result.err
    assert not list((copy / "engines").glob(".partial*"))


def test_options_that_this_builder_has_no_use_for_are_said(tt_edge, copy, tmp_path):
    """TensorRT-RTX without a GPU keeps its weights and has no timings to keep."""
    timings = tmp_path / "timings"
    result = tt_edge("build", copy, "--engine", "sm89", "--strip-weights", "--timing-cache", timings)
    assert result.status == 0
    assert "so the engine holds its weights" in result.err
    assert f"so {timings} is neither read nor written" in result.err
    assert not timings.exists()
    assert not any(engine.stripped for engine in Bundle.open(copy).manifest.engines)


def test_a_bundle_of_engines_alone(tt_edge, copy, tmp_path):
    ship = tmp_path / "ship.ttedge"
    result = tt_edge("build", copy, "--engine", "sm89", "--engines-only", ship)
    assert result.out.endswith(f"{ship}: the engines, without the network\n")
    shipped = Bundle.open(ship)
    assert shipped.verify() == []
    assert not shipped.has_network
    assert shipped.has("tokenizer.json")
    assert shipped.manifest.engines == Bundle.open(copy).manifest.engines
    assert "not in the bundle: it has engines only" in tt_edge("inspect", ship).out
    tt_edge("run", ship, "--prompt", "a", "--runtime", "reference").fails_with("it ships engines only", 1)
    assert "exists already; give --overwrite" in tt_edge("build", copy, "--engine", "sm89", "--engines-only", ship).err
    assert tt_edge("build", copy, "--engine", "sm89", "--engines-only", ship, "--overwrite").status == 0
