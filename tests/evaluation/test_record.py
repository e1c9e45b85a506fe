"""Recorded answers: kept by run, whatever a killed process left behind."""

from __future__ import annotations

import json

import pytest

from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.record import Record, record_key
from tt_edge.evaluation.requests import Answer

TEXT, SCORED = Answer("Stop. ✓"), Answer(None, -1.5, 3, True, (-0.5, -2.0))


def test_answers_are_kept_by_key(tmp_path):
    file = tmp_path / "out" / "answers.jsonl"
    with Record(file, "one") as record:
        record.add("1", TEXT, {"right": True})
        record.add("2", SCORED, {})
    with Record(file, "other") as record:
        assert record.answers == {}
        record.add("1", Answer("Go."), {})
    with Record(file, "one") as record:
        assert record.answers == {"1": TEXT, "2": SCORED}


@pytest.mark.parametrize("cut", [1, 2, 20, 60])
def test_a_line_that_was_cut_is_asked_again(tmp_path, cut):
    file = tmp_path / "answers.jsonl"
    with Record(file, "one") as record:
        record.add("1", TEXT, {})
        record.add("2", SCORED, {})
    file.write_bytes(file.read_bytes()[:-cut])
    with Record(file, "one") as record:
        assert record.answers == ({"1": TEXT, "2": SCORED} if cut == 1 else {"1": TEXT})
        record.add("3", TEXT, {})
    with Record(file, "one") as record:
        assert {"1", "3"} <= set(record.answers)
    assert json.loads(file.read_text().splitlines()[-1])["item"] == "3"


def test_one_process_writes(tmp_path):
    with Record(tmp_path / "a.jsonl", "one"), pytest.raises(InvalidInputError, match="another process writes to"):
        Record(tmp_path / "a.jsonl", "one")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match=r"cannot be written .*; give another --output"):
        Record(tmp_path / "file" / "a.jsonl", "one")


def test_keys():
    assert record_key(model="a", data="b") == record_key(data="b", model="a")
    assert record_key(model="a", data="b") != record_key(model="a", data="c")
