"""`tt-edge doctor`: this machine, with and without a bundle."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.xdist_group("cli")


def test_this_machine(tt_edge):
    result = tt_edge("doctor")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "nothing is wrong"
    assert {line.split()[1] for line in result.out.splitlines()[:-1]} >= {"system", "python", "gpu", "disk"}


def test_a_bundle_as_json(tt_edge, bundle):
    result = tt_edge("doctor", bundle, "--json")
    report = json.loads(result.out)
    assert (result.status, report["healthy"], report["bundle"]) == (0, True, str(bundle))
    topics = {finding["topic"] for finding in report["findings"]}
    assert topics >= {"decoder engine", "decoder form", "memory needed"}


def test_something_wrong_is_an_exit_status(tt_edge, bundle, monkeypatch):
    from tt_edge.doctor.memory import Memory

    monkeypatch.setattr("tt_edge.doctor.facts.read_memory", lambda root: Memory(total=1 << 30, available=1000))
    result = tt_edge("doctor", bundle)
    assert (result.status, result.err) == (1, "")
    assert result.out.splitlines()[-1] == "1 wrong"


def test_no_bundle(tt_edge, tmp_path):
    tt_edge("doctor", tmp_path / "none").fails_with("does not exist", 2)
