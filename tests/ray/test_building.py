"""``tt-edge build --ray``: engines of several targets, each by a worker."""

from __future__ import annotations

import json
import shutil

import pytest

from examples.driving_qa.evaluate import CHECKPOINT
from tt_edge.bundle import Bundle
from tt_edge.cli import main

pytest.importorskip("tensorrt_rtx")
pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A network that TensorRT builds, which the other tests' is not."""
    out = tmp_path_factory.mktemp("compiled") / "driving.ttedge"
    limits = ["--max-input-len", "32", "--max-seq-len", "64", "--single-profile"]
    assert main(["compile", str(CHECKPOINT), "-o", str(out), *limits, "--json"]) == 0
    return out


@pytest.fixture
def copy(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "copy.ttedge")


def test_engines_of_two_targets(nodes, copy, capsys):
    nodes.add()
    assert main(["build", str(copy), "--engine", "sm86,sm120", "--ray", nodes.address, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["compute_capability"] for record in records} == {"sm86", "sm120"}
    opened = Bundle.open(copy)
    assert opened.verify() == []
    assert {engine.file for engine in opened.manifest.engines} == {record["file"] for record in records}


def test_refused(nodes, copy, capsys):
    before = (copy / "manifest.json").read_bytes()
    assert main(["build", str(copy), "--ray", nodes.address]) == 2
    assert "--ray builds for named GPUs, and --engine has local" in capsys.readouterr().err
    assert main(["build", str(copy), "--engine", "sm999", "--ray", nodes.address]) != 0
    assert "no target sm999" in capsys.readouterr().err
    assert (copy / "manifest.json").read_bytes() == before
