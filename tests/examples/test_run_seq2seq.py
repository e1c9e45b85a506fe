"""examples/run_seq2seq.py on a tiny checkpoint, beside PyTorch."""

from __future__ import annotations

import pytest

from examples import run_seq2seq
from tests.models.tiny_seq2seq import save_seq2seq, tiny_seq2seq


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_seq2seq(tiny_seq2seq("t5"), tmp_path_factory.mktemp("t5") / "checkpoint")


def test_both_answers(checkpoint, capsys):
    options = [
        "--precision",
        "FP32",
        "--num_tokens",
        "8",
        "--num_beams",
        "2",
        "--enable_pytorch_run",
        "--engine",
        "none",
    ]
    assert run_seq2seq.main(["--model", str(checkpoint), "--text", "w4 w5 w90", *options]) == 0
    assert "PyTorch and TensorRT outputs match: True" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to run; give --model or --from_bundle"),
        (["--model", "x", "--text", "a", "--audio", "b"], "give --text or --audio, not both"),
        (["--model", "x", "--image", "a", "--audio", "b"], "give --image or --audio, not both"),
        (["--from_bundle", "x", "--enable_pytorch_run"], "needs the checkpoint"),
        (["--model", "x", "--num_tokens", "0"], "--num_tokens is 0"),
    ],
)
def test_refused(options, message, capsys):
    assert run_seq2seq.main(options)
    assert message in capsys.readouterr().err
