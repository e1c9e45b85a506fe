"""Questions of JSON lines: what their answers depend on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.runtime.audio.test_load import wav
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.questions import Questions


def test_another_recording_is_other_data(tmp_path):
    path, sound = tmp_path / "questions.jsonl", tmp_path / "a.wav"
    path.write_text(json.dumps({"audio": "a.wav", "answer": "hello"}))
    digests = set()
    for samples in (np.zeros((800, 1)), np.ones((800, 1)) / 2):
        sound.write_bytes(wav(2, samples))
        digests.add(Questions(path).digest)
    assert len(digests) == 2


def test_another_image_is_other_data(tmp_path):
    """Answers that are recorded are those to the images that were asked about."""
    (tmp_path / "own.png").write_bytes(b"one")
    (tmp_path / "named.png").write_bytes(b"one")
    part = {"type": "image_url", "image_url": {"url": f"file://{tmp_path}/named.png", "detail": "low"}}
    lines = [
        {"prompt": "What is it?", "answer": "a car", "images": ["own.png", "missing.png"]},
        {"messages": [{"role": "user", "content": [part]}], "answer": "a car"},
        {"prompt": "And this?", "answer": "a car", "images": ["data:image/png;base64," + "A" * 5000]},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    digests = {Questions(path).digest}
    for name in ("own.png", "named.png"):
        (tmp_path / name).write_bytes(b"two")
        digests.add(Questions(path).digest)
    assert len(digests) == 3
    assert Questions(path).digest in digests, "equal files have equal digests"


@pytest.mark.parametrize("name", ["audio", "language", "task"])
def test_what_speech_is_asked_with_is_text(tmp_path, name):
    (tmp_path / "a.wav").write_bytes(wav(2, np.zeros((800, 1))))
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"audio": "a.wav", "answer": "hello", name: 7}))
    with pytest.raises(InvalidInputError, match=rf"jsonl:1 is not a question \(TypeError: {name} is not a string\)"):
        Questions(path)
