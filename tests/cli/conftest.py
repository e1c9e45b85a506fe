"""One small checkpoint and one bundle of it for all tests of the command line, and a way to call it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tt_edge.cli import main

#: Limits of the bundle.
MAX_BATCH, MAX_INPUT_LEN, MAX_SEQ_LEN = 2, 16, 64
LIMITS = ("--max-batch", MAX_BATCH, "--max-input-len", MAX_INPUT_LEN, "--max-seq-len", MAX_SEQ_LEN)


@dataclass(frozen=True)
class Result:
    """What a call of the command line left: its exit status, and what it wrote."""

    status: int
    out: str
    err: str

    def fails_with(self, message: str, status: int) -> None:
        """One line on stderr that holds ``message``, nothing on stdout, the given exit status."""
        assert self.err.startswith("tt-edge: error: ")
        assert self.err.count("\n") == 1, self.err
        assert message in self.err
        assert (self.out, self.status) == ("", status)


Call = Callable[..., Result]


@pytest.fixture
def tt_edge(capfd, monkeypatch) -> Call:
    """``tt_edge("run", bundle, "--prompt", "…")`` runs the command line in this process."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # --debug would set it for all tests to come

    def call(*argv: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in argv])
        return Result(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Trained for long enough to say different things after different prompts."""
    from examples.tiny_checkpoint import make_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_checkpoint(folder, steps=30)
    return folder


@pytest.fixture(scope="session")
def pristine(checkpoint, tmp_path_factory) -> Path:
    """A bundle in fp32 without engines, which no test changes."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.ttedge"
    options = ("--precision", "fp32", "--engine", "none", "--json", *LIMITS)
    assert main([str(a) for a in ("compile", checkpoint, "-o", path, *options)]) == 0
    return path


@pytest.fixture
def bundle(pristine, tmp_path) -> Path:
    """A copy of the bundle, to change."""
    return shutil.copytree(pristine, tmp_path / "tiny.ttedge")


@pytest.fixture
def out(tmp_path) -> Path:
    """A place for a bundle in an empty folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "out.ttedge"
