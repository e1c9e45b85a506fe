"""``tt-edge eval`` on every text format beside PyTorch, its reports, and runs that were killed."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from math import nan

import pytest

from tests.evaluation.data_files import SUBJECTS, write_gsm8k, write_mmlu, write_text
from tt_edge.cli import main
from tt_edge.errors import EngineError
from tt_edge.evaluation import run
from tt_edge.evaluation.formats.mmlu import MMLU
from tt_edge.evaluation.requests import Answer

ASKED = sum(SUBJECTS.values())


def mmlu(folder, *more):
    return ["--task", "mmlu", "--data", str(write_mmlu(folder / "mmlu")), "--shots", "1", *more]


def evaluate(capsys, bundle, *options):
    assert main(["eval", str(bundle), *map(str, options), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return row


def test_mmlu(bundle, checkpoint, tmp_path, capsys):
    row = evaluate(capsys, bundle, *mmlu(tmp_path, "--model", checkpoint, "--output", tmp_path / "out"))
    assert row["network"] == row["pytorch"]
    assert row["network"]["asked"] == ASKED
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    choices = {}
    for line in lines:
        choices.setdefault(line["item"], []).append(line["answer"]["choices"])
    assert len(choices) == ASKED
    for ours, theirs in choices.values():
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["rows"] == [row]
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "report.csv").read_text())))
    assert {line["level"] for line in table} == {"all", "category", "subcategory", "subject"}
    assert table[0]["asked"] == str(ASKED)
    assert float(table[0]["accuracy"]) == row["network"]["accuracy"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.startswith(
        f"# mmlu\n\n{ASKED} asked; shots 1, split test.\n\n| bundle | format | computed by | accuracy |"
    )
    assert "| college_physics | 6 |" in page


def test_gsm8k(bundle, checkpoint, tmp_path, capsys):
    """The same texts as ``generate()``, cut at the same stop strings."""
    data, train = write_gsm8k(tmp_path / "test.jsonl"), write_gsm8k(tmp_path / "train.jsonl", 2, 20)
    options = ["--task", "gsm8k", "--data", data, "--fewshot", train, "--shots", "1", "--max-new-tokens", "12"]
    row = evaluate(capsys, bundle, *options, "--model", checkpoint, "--output", tmp_path / "out")
    assert row["network"] == row["pytorch"] == {"asked": 6, "right": 0, "strict": 0.0, "flexible": 0.0}
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    texts = {}
    for line in lines:
        texts.setdefault(line["item"], []).append(line["answer"]["text"])
    assert all(ours == theirs for ours, theirs in texts.values())


def test_perplexity(bundle, checkpoint, tmp_path, capsys):
    data = write_text(tmp_path / "a.txt", 12)
    options = ["--task", "perplexity", "--data", data, "--window", "100", "--context", "20"]
    row = evaluate(capsys, bundle, *options, "--model", checkpoint)
    assert row["network"] == pytest.approx(row["pytorch"], rel=1e-4)
    assert row["network"]["asked"] > 2


#: Records slowly, so that it can be killed between two answers.
SLOW = """
import sys, time
from tt_edge.cli import main
from tt_edge.evaluation.record import Record
add = Record.add
Record.add = lambda *args: (add(*args), time.sleep(0.3))
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_continues(bundle, tmp_path, capsys):
    options = ["eval", str(bundle), *mmlu(tmp_path), "--json"]
    assert main(options) == 0
    whole = json.loads(capsys.readouterr().out)
    record = tmp_path / "out" / "answers.jsonl"
    options += ["--output", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not record.exists() or record.read_text().count("\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = record.read_text().count("\n")
    assert 3 <= done < ASKED
    assert not (tmp_path / "out" / "report.json").exists()
    with record.open("a") as file:
        file.write('{"key": "half of a li')
    assert main(options) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == whole
    assert f"{done} of {ASKED} answers are recorded already" in output.err
    items = [json.loads(line)["item"] for line in record.read_text().splitlines() if line.endswith("}")]
    assert len(items) == len(set(items)) == ASKED
    assert main([*options, "--shots", "0"]) == 0, "other settings are another run"
    assert "recorded already" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "gsm8k", "--window", "5"], "--window is not for --task gsm8k; omit it"),
        (["--task", "perplexity", "--shots", "5"], "--shots is not for --task perplexity; omit it"),
        (["--subject", "anatomy"], "--subject is not for --task questions; omit it"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; give at least 1"),
    ],
)
def test_refused(bundle, tmp_path, capsys, options, message):
    assert main(["eval", str(bundle), "--data", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_context_that_is_too_small(bundle, tmp_path, capsys):
    """Before anything is asked: the length that the longest prompt needs, and the flag."""
    data = write_mmlu(tmp_path / "mmlu")
    file = data / "test" / "marketing_test.csv"
    file.write_text(file.read_text() + f"{'long ' * 400},1,2,3,4,A\n")
    out = tmp_path / "out"
    assert main(["eval", str(bundle), "--task", "mmlu", "--data", str(data), "--shots", "0", "--output", str(out)]) == 1
    error = capsys.readouterr().err
    assert "marketing_test.csv:6 needs " in error
    assert "max_seq_len is 640; compile with --max-seq-len" in error
    assert (out / "answers.jsonl").read_text() == ""


def test_nan_is_no_answer(tmp_path):
    """A letter chosen among NaN would be A, and a quarter of all answers right."""

    class Broken:
        key = word = "broken"

        def check(self, items):
            pass

        def answers(self, items):
            yield items[0], Answer(choices=(nan,) * 4)

    task = MMLU(write_mmlu(tmp_path / "mmlu"), shots=0)
    items = task.items(None)
    with pytest.raises(EngineError, match=r"_test.csv:1: a.ttedge computes NaN, so that no answer counts"):
        run.evaluate(task, Broken(), items, tmp_path / "answers.jsonl", "a.ttedge")
    assert (tmp_path / "answers.jsonl").read_text() == ""


def test_progress(monkeypatch, capsys):
    monkeypatch.setattr(run, "LINE_SECONDS", 0.0)
    with run._progress(8, 2, "a.ttedge") as show:
        show.update(3, "accuracy 66.7%")
    assert capsys.readouterr().err == "a.ttedge: 2 of 8 answers are recorded already\na.ttedge: 3 of 8 accuracy 66.7%\n"

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with run._progress(8, 0, "a.ttedge") as show:
        time.sleep(0.15)  # tqdm draws ten times a second at most
        show.update(8, "accuracy 50.0%")
    assert "8/8" in sys.stderr.getvalue()
    assert "accuracy 50.0%" in sys.stderr.getvalue()
