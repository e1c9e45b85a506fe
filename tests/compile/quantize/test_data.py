"""Calibration data: the forms it may have, its bounds, and what is said of anything else."""

from __future__ import annotations

import json

import pytest

from examples.driving_qa.evaluate import CHECKPOINT
from tt_edge.compile.quantize.data import CalibrationData, load_batches
from tt_edge.errors import InvalidInputError

TEXTS = ["The light ahead is red.", "A pedestrian waits on the left.", "The road is clear."]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINT)


def rows_of(batches):
    return [row for batch in batches for row in batch["input_ids"].tolist()]


def test_text_by_paragraph(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    batches = load_batches(CalibrationData(tmp_path / "a.txt"), tokenizer)
    assert sorted(rows_of(batches)) == sorted(tokenizer(t)["input_ids"] for t in TEXTS)


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": text} for text in TEXTS],
        [{"prompt": "Is it red?", "answer": text} for text in TEXTS],
        [{"messages": [{"role": "user", "content": text}], "answer": "Yes."} for text in TEXTS],
    ],
    ids=["text", "prompt", "messages"],
)
def test_jsonl(tokenizer, tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert len(rows_of(load_batches(CalibrationData(tmp_path / "a.jsonl"), tokenizer))) == 3


def test_bounds(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS * 40))
    batches = load_batches(CalibrationData(tmp_path / "a.txt", samples=7, max_length=5), tokenizer)
    assert len(rows_of(batches)) == 7
    assert max(map(len, rows_of(batches))) == 5


def test_the_built_in_text_is_the_same_every_time(tokenizer):
    one, two = (load_batches(CalibrationData(), tokenizer) for _ in range(2))
    assert len(rows_of(one)) > 8
    assert rows_of(one) == rows_of(two)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "good"}\n{"text": ', r"a\.jsonl:2 is not a JSON object"),
        ("a.jsonl", "[1, 2]\n", r"a\.jsonl:1 is not a JSON object"),
        ("a.jsonl", '{"question": "?"}\n', r"a\.jsonl:1 has none of text, .* \(it has question\)"),
        ("a.txt", "\n\n \n", r"a\.txt has no text"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a"}], "answer": 3}',
            r"a\.jsonl:1: answer is 3; give a",
        ),
        ("a.jsonl", '{"text": "a", "images": ["b.png"]}\n', r"a\.jsonl:1 has images, which the model does not take"),
        (
            "a.jsonl",
            '{"messages": [{"content": [{"type": "video", "video": "a.mp4"}]}]}',
            r"a\.jsonl:1 has a video a\.mp4, which the model does not take; remove it$",
        ),
        (
            "a.jsonl",
            '{"messages": [{"content": [{"type": "video", "video": ["a.png", "b.png"]}]}]}',
            r"a\.jsonl:1 has a video of 2 frames, which the model does not take; remove it$",
        ),
        ("a.jsonl", '{"text": "a", "images": "b.png"}\n', r"a\.jsonl:1: images is 'b.png'; give a list of file names"),
    ],
)
def test_refused(tokenizer, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_batches(CalibrationData(tmp_path / name), tokenizer)
    assert "\n" not in str(caught.value)


def test_refused_at_once(tokenizer, tmp_path):
    with pytest.raises(InvalidInputError, match=r"calibration data .*missing does not exist"):
        CalibrationData(tmp_path / "missing")
    with pytest.raises(InvalidInputError, match="calibration samples is 0; give at least 1"):
        CalibrationData(samples=0)
    (tmp_path / "latin.txt").write_bytes("schön".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="is not UTF-8 text"):
        load_batches(CalibrationData(tmp_path / "latin.txt"), tokenizer)
