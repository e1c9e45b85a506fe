"""Files that another process hashes: checked against the manifest as always, also where that process fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.bundle.making import ENGINE, flip_byte, sha256_of, write_bundle
from tt_edge.bundle import Bundle, hash_ahead
from tt_edge.errors import BundleError

WEIGHTS = "decoder/weights.safetensors"


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A small bundle whose files count as large."""
    monkeypatch.setattr(hash_ahead, "_WORTHWHILE", 0)
    write_bundle(tmp_path / "tiny.ttedge")
    return tmp_path / "tiny.ttedge"


@pytest.fixture
def hashed_here(monkeypatch):
    """The names of files that this process hashed."""
    names = []
    original = Bundle._sha256

    def counted(self, name):
        found = self._ahead.sha256(name)
        if found is None:
            names.append(name)
        return found or original(self, name)

    monkeypatch.setattr(Bundle, "_sha256", counted)
    return names


def test_what_the_process_hashed_is_not_hashed_again(bundle, hashed_here):
    opened = Bundle.open(bundle)
    opened.hash_ahead(WEIGHTS, ENGINE, "missing")
    assert opened.verify() == []
    assert {WEIGHTS, ENGINE}.isdisjoint(hashed_here)
    assert opened._ahead.sha256(ENGINE) == sha256_of(bundle / ENGINE)


@pytest.mark.parametrize("name", [WEIGHTS, ENGINE])
def test_an_edited_file_is_refused(bundle, name):
    flip_byte(bundle / name)
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE, WEIGHTS)
    with pytest.raises(BundleError, match=r"was edited: its SHA-256 is .* copy the bundle again"):
        opened.file(name)


def test_a_process_that_ends_early(bundle, hashed_here):
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE)
    opened._ahead._process.kill()
    opened._ahead._process.wait()
    opened._ahead._process.stdout.read()
    opened.file(ENGINE)
    assert hashed_here == [ENGINE]


@pytest.mark.parametrize("said", ["", "0123abc", "usage: another program\n"])
def test_a_process_that_says_no_hash(bundle, hashed_here, monkeypatch, tmp_path, said):
    child = tmp_path / "child.py"
    child.write_text(f"print({said!r}, end='')")
    monkeypatch.setattr(hash_ahead, "_CHILD", child)
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE)
    opened.file(ENGINE)
    assert hashed_here == [ENGINE]


@pytest.mark.parametrize("executable", [None, "", "/opt/app/bin/app"])
def test_a_program_that_embeds_python_is_not_started_again(bundle, hashed_here, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(subprocess, "Popen", None)
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE)
    opened.file(ENGINE)
    assert hashed_here == [ENGINE]


def test_no_process_can_be_started(bundle, hashed_here, monkeypatch):
    def refused(*_, **__):
        raise BlockingIOError

    monkeypatch.setattr(subprocess, "Popen", refused)
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE)
    opened.file(ENGINE)
    assert hashed_here == [ENGINE]


def test_the_process_ends_with_the_bundle(bundle):
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE)
    process = opened._ahead._process
    del opened
    assert process.returncode is not None


def test_small_files_are_not_worth_a_process(bundle, monkeypatch):
    monkeypatch.setattr(hash_ahead, "_WORTHWHILE", 1 << 20)
    opened = Bundle.open(bundle)
    opened.hash_ahead(ENGINE)
    assert opened._ahead._process is None
