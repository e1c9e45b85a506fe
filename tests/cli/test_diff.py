"""`tt-edge diff`: what differs between two bundles, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from tt_edge.bundle import Bundle
from tt_edge.cli.diff import differences

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def half(checkpoint, tmp_path_factory):
    """The checkpoint in fp16, with a longer cache than the other bundle's."""
    from tt_edge.cli import main

    path = tmp_path_factory.mktemp("half") / "half.ttedge"
    options = ("--engine", "none", "--max-batch", 2, "--max-input-len", 16, "--max-seq-len", 96, "--json")
    assert main([str(a) for a in ("compile", checkpoint, "-o", path, *options)]) == 0
    return path


def test_equal_bundles(tt_edge, pristine, bundle):
    result = tt_edge("diff", pristine, bundle)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{pristine} and {bundle} are equal: every fact, and every file's SHA-256\n"


def test_json(tt_edge, pristine, half):
    result = tt_edge("diff", pristine, half, "--json")
    assert (result.status, result.err) == (0, "")
    found = {tuple(d["path"]): (d["first"], d["second"]) for d in json.loads(result.out)["differences"]}
    assert found["config", "network", "precision"] == ("fp32", "fp16")
    assert found["config", "limits", "max_seq_len"] == (64, 96)
    assert found["kv_cache", "bytes_per_token"] == (1024, 512)
    kinds = [Bundle.open(str(path)).network().kinds() for path in (pristine, half)]
    assert {k[1]: v for k, v in found.items() if k[0] == "layers"} == {
        kind: (kinds[0].get(kind), kinds[1].get(kind))
        for kind in kinds[0] | kinds[1]
        if kinds[0][kind] != kinds[1][kind]
    }
    assert ("files", "decoder/weights.safetensors") in found
    assert ("files", "tokenizer.json") not in found
    assert [path for path in found if path[0] == "model"] == [("model", "config_sha256")]  # the type is in it


def test_text(tt_edge, pristine, half):
    result = tt_edge("diff", pristine, half)
    assert (result.status, result.err) == (0, "")
    lines = [line.strip() for line in result.out.splitlines()]
    assert lines[:2] == [f"- {pristine}", f"+ {half}"]
    assert any(line.endswith("bytes_per_token: 1,024 -> 512 (-50.0%)") for line in lines)
    assert any(line.endswith("network.precision: fp32 -> fp16") for line in lines)
    assert any(line.endswith("decoder/weights.safetensors: differs") for line in lines)


def test_entries_of_lists_are_matched_by_name():
    one = {"evidence": [{"claim": "a", "word": "built"}, {"claim": "b", "word": "evaluated"}]}
    two = {"evidence": [{"claim": "b", "word": "failed"}, {"claim": "c", "word": "built"}]}
    assert [(d.path, d.first, d.second) for d in differences(one, two)] == [
        (("evidence", "a"), {"word": "built"}, None),
        (("evidence", "b", "word"), "evaluated", "failed"),
        (("evidence", "c"), None, {"word": "built"}),
    ]


def test_a_bundle_that_is_not_there(tt_edge, pristine, tmp_path):
    result = tt_edge("diff", pristine, tmp_path / "none.ttedge")
    assert result.status != 0
    assert result.err.startswith("tt-edge: error: ")
    assert "none.ttedge" in result.err
