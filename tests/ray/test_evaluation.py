"""``tt-edge eval --ray``: the numbers of a local run, to the last bit, also when a machine is lost."""

from __future__ import annotations

import json

import pytest

from tt_edge.cli import main
from tt_edge.evaluation.record import Record

pytestmark = pytest.mark.xdist_group("ray")
WORDS = ["the", "light", "ahead", "is", "red", "what", "should", "a", "car", "do", "now"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """64 questions: four groups of both generated and scored answers."""
    file = tmp_path_factory.mktemp("data") / "questions.jsonl"
    rows = [{"prompt": " ".join(WORDS[: 3 + n % 8]) + f" {n}", "answer": WORDS[n % 11]} for n in range(64)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def answers(folder):
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return {line["item"]: line["answer"] for line in lines}


def test_a_lost_machine_costs_its_shard(nodes, bundle, data, tmp_path, capsys, monkeypatch):
    options = [
        str(bundle),
        "--data",
        str(data),
        "--max-new-tokens",
        "24",
        "--runtime",
        "reference",
        "--json",
        "--output",
    ]
    assert main(["eval", *options, str(tmp_path / "here")]) == 0
    local = json.loads(capsys.readouterr().out)

    nodes.add()
    added, add = [], Record.add

    def lose(record, *answer):
        add(record, *answer)
        added.append(answer)
        if len(added) == 1:  # both nodes have tasks
            nodes.lose()

    monkeypatch.setattr(Record, "add", lose)
    assert main(["eval", *options, str(tmp_path / "cluster"), "--ray", nodes.address]) == 0
    assert json.loads(capsys.readouterr().out) == local
    assert len(added) == len(answers(tmp_path / "cluster")) == 64, "every item was recorded once"
    assert answers(tmp_path / "cluster") == answers(tmp_path / "here")

    # A run that ended early goes on where it was, wherever its first part ran.
    record = tmp_path / "cluster" / "answers.jsonl"
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:48]))
    assert main(["eval", *options, str(tmp_path / "cluster"), "--ray", nodes.address]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == local
    assert "48 of 64 answers are recorded already" in output.err


def test_refused(nodes, bundle, data, tmp_path, capsys, monkeypatch):
    options = [str(bundle), "--data", str(data), "--ray"]
    assert main(["eval", *options, nodes.address, "--runtime", "tensorrt"]) == 1
    assert "has 1 CPU and 1 GPU for a task; add one" in capsys.readouterr().err
    # A worker finds another bundle than is here.
    monkeypatch.setattr("tt_edge.evaluation.bundle_model.identity_of", lambda _: "another")
    assert main(["eval", *options, nodes.address]) == 2
    error = capsys.readouterr().err
    assert "is another bundle than here; copy the same one to all machines" in error
    # On a busy machine, Ray prints warnings of its own before it.
    assert [line for line in error.splitlines() if line.startswith(("tt-edge", "Traceback"))] == error.splitlines()[-1:]
