"""Adding engines and evidence to a finished bundle: whole before, whole after, whatever happens between."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from tests.bundle.making import write_bundle
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import EngineRecord, Evidence
from tt_edge.bundle.update import NewEngine, is_version_of, put_file, record_evidence
from tt_edge.folder import Folder


def record(capability="sm89", size=6):
    return EngineRecord(f"engines/rtx-1-{capability}.engine", "rtx", "1", "linux_x86_64", capability, size, 0.1)


def add(path, content=b"engine", capability="sm89"):
    with NewEngine(Folder.open(path)) as engine:
        engine.file.write(content)
        return engine.commit(
            record(capability, len(content)), Evidence(f"engine for {capability}, rtx", "built", "by a test")
        )


@pytest.fixture
def path(tmp_path):
    write_bundle(tmp_path / "b.ttedge")
    return tmp_path / "b.ttedge"


def test_an_engine_is_listed_and_hashed(path):
    added = add(path)
    bundle = Bundle.open(path)
    assert bundle.verify() == []
    assert bundle.manifest.engines[-1] == added
    assert bundle.read_bytes(added.file) == b"engine"
    assert Evidence("engine for sm89, rtx", "built", "by a test") in bundle.manifest.evidence


def test_the_same_key_replaces_and_another_does_not(path):
    first, other, second = add(path), add(path, capability="sm120"), add(path, b"newer engine")
    bundle = Bundle.open(path)
    assert bundle.verify() == []
    assert [e for e in bundle.manifest.engines if e.flavour == "rtx"] == [other, second]
    assert not (path / first.file).exists()
    assert sum(e.claim == "engine for sm89, rtx" for e in bundle.manifest.evidence) == 1


def test_the_same_engine_again(path):
    first, second = add(path), add(path)
    assert first.file == second.file
    assert Bundle.open(path).verify() == []
    assert (path / first.file).read_bytes() == b"engine"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_build_leaves_the_bundle_as_it_was(path, error):
    before = (path / "manifest.json").read_bytes()

    def build():
        with NewEngine(Folder.open(path)) as engine:
            engine.file.write(b"half an eng")
            raise error

    with pytest.raises(error):
        build()
    assert (path / "manifest.json").read_bytes() == before
    assert Bundle.open(path).verify() == []


def test_a_manifest_that_cannot_be_replaced(path, monkeypatch):
    before = (path / "manifest.json").read_bytes()

    rename = Folder.rename

    def full(self, name, new):
        if new == "manifest.json":
            raise OSError(28, "No space left on device")
        rename(self, name, new)

    monkeypatch.setattr(Folder, "rename", full)
    with pytest.raises(OSError, match="No space"):
        add(path)
    assert (path / "manifest.json").read_bytes() == before
    assert Bundle.open(path).verify() == []


def test_what_a_killed_build_left_is_removed_by_the_next(path):
    with NewEngine(Folder.open(path)) as living:
        living.file.write(b"half")
        held = set(os.listdir(path / "engines"))
        dead = path / "engines" / f".new.partial-{'00ff' * 4}"
        dead.write_bytes(b"half")
        add(path)
        assert not dead.exists()
        assert held <= set(os.listdir(path / "engines"))  # another build is at it
    assert not [name for name in os.listdir(path / "engines") if "partial" in name]


def _add_many(path, capability):
    for number in range(20):
        add(path, f"{capability} {number}".encode(), capability)


def test_two_builds_at_once(path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(path, c)) for c in ("sm89", "sm120")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    bundle = Bundle.open(path)
    assert bundle.verify() == []
    engines = {e.compute_capability: e for e in bundle.manifest.engines if e.flavour == "rtx"}
    assert {c: bundle.read_bytes(e.file) for c, e in engines.items()} == {"sm89": b"sm89 19", "sm120": b"sm120 19"}


def test_evidence_replaces_what_was_said_of_the_claim(path):
    record_evidence(Folder.open(path), Evidence("network", "evaluated", "once"))
    record_evidence(Folder.open(path), Evidence("network", "evaluated", "twice"))
    said = [e.detail for e in Bundle.open(path).manifest.evidence if e.claim == "network"]
    assert said == ["twice"]


def put(path, content=b"one", *claims):
    return put_file(
        Folder.open(path), "golden.safetensors", content, [Evidence(c, "built", "by a test") for c in claims]
    )


def test_a_small_file_is_listed_with_its_evidence(path):
    name = put(path, b"one", "a claim")
    bundle = Bundle.open(path)
    assert bundle.verify() == []
    assert is_version_of(name, "golden.safetensors")
    assert bundle.read_bytes(name) == b"one"
    assert bundle.manifest.evidence[-1].claim == "a claim"


def test_a_small_file_replaces_the_older_one_and_no_other(path):
    first, second = put(path), put(path, b"two")
    assert not (path / first).exists()
    assert put(path, b"two") == second
    bundle = Bundle.open(path)
    assert bundle.verify() == []
    assert bundle.read_bytes(second) == b"two"
    assert bundle.has("decoder/network.json")


def test_a_link_in_a_small_file_s_place_is_not_written_through(path, tmp_path):
    name = put(path)
    (tmp_path / "outside").write_bytes(b"mine")
    (path / name).unlink()
    (path / name).symlink_to(tmp_path / "outside")
    put(path)
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert Bundle.open(path).read_bytes(name) == b"one"


def test_a_small_file_that_cannot_be_written_leaves_nothing(path, monkeypatch):
    before = sorted(os.listdir(path))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        put(path)
    assert sorted(os.listdir(path)) == before
