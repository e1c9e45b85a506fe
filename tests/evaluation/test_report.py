"""Reports of results as Markdown and JSON, whatever the names in the data are."""

from __future__ import annotations

import json
from math import inf

from tt_edge.evaluation.formats.questions import Questions
from tt_edge.evaluation.report import render, write_reports
from tt_edge.evaluation.requests import Answer


def test_names_of_groups_stay_in_their_cells(tmp_path):
    data = tmp_path / "questions.jsonl"
    data.write_text(json.dumps({"prompt": "a", "answer": "b", "kind": "two\nlines | <img src=x>"}))
    task = Questions(data)
    items = task._items
    network = task.summary(items, {"1": Answer("b", logprob=-inf, tokens=1)})
    row = {
        "bundle": "a.ttedge",
        "format": "fp16",
        "weight_bytes": 1,
        "word": "run",
        "network": network,
        "pytorch": None,
    }
    write_reports(tmp_path, task, [row])
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[-1] == "| two lines \\| &lt;img src=x&gt; | 1 | 100.00% |"
    assert "Infinity" not in (tmp_path / "report.json").read_text()
    shown = render(task, [row]).splitlines()
    assert shown[-1] == "1 question; run"
    assert shown[-2].split()[-2:] == ["1", "100.00%"]
