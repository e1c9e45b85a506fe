"""kill -9 at any point of writing, building and signing: an old bundle stays usable, and the next run is not disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bundle.crashes import states
from tests.bundle.making import write_bundle
from tests.bundle.test_update import add, put
from tt_edge.bundle import Bundle, writer
from tt_edge.bundle.keys import new_key
from tt_edge.bundle.signing import sign
from tt_edge.bundle.update import is_version_of
from tt_edge.folder import Folder


def note_of(bundle: Path) -> bytes:
    return (bundle / "config.json").read_bytes()


@pytest.mark.parametrize("exchanging", [True, False])
def test_replacing_a_bundle(tmp_path, monkeypatch, exchanging):
    """Where the file system swaps paths, a bundle is there in every state; elsewhere the next writer puts it back."""
    if not exchanging:
        monkeypatch.setattr(writer, "exchange", lambda *names: False)
    folder, copies = tmp_path / "folder", tmp_path / "copies"
    folder.mkdir()
    write_bundle(folder / "b.ttedge", note=b"old")
    with states(folder, copies) as found:
        write_bundle(folder / "b.ttedge", overwrite=True, note=b"new")
    assert len(found) > 8
    notes = []
    for state in found:
        target = state / "b.ttedge"
        if exchanging:
            assert Bundle.open(target).verify() == []
        else:
            writer.remove_stale_partials(Folder.open(state), target.name)
            assert Bundle.open(target).verify() == []
        notes.append(note_of(target))
        write_bundle(target, overwrite=True, note=b"next")
        assert os.listdir(state) == ["b.ttedge"]
        assert note_of(target) == b"next"
    assert notes == sorted(notes, reverse=True)  # old, and from some point on new
    assert set(notes) == {b"old", b"new"}


def test_writing_a_first_bundle(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with states(folder, tmp_path / "copies") as found:
        write_bundle(folder / "b.ttedge")
    for state in found:
        if (state / "b.ttedge").exists():
            assert Bundle.open(state / "b.ttedge").verify() == []
        write_bundle(state / "b.ttedge", overwrite=True)
        assert os.listdir(state) == ["b.ttedge"]


def test_adding_an_engine(tmp_path):
    path = tmp_path / "b.ttedge"
    write_bundle(path)
    add(path, b"old engine")
    with states(path, tmp_path / "copies") as found:
        add(path, b"new engine")
    seen = set()
    for state in found:
        bundle = Bundle.open(state)
        bundle.verify()
        seen.add(bundle.read_bytes(next(e.file for e in bundle.manifest.engines if e.flavour == "rtx")))
        add(state, b"next engine")
        assert Bundle.open(state).verify() == []  # nothing that the manifest does not list
    assert seen == {b"old engine", b"new engine"}


def test_putting_a_small_file(tmp_path):
    path = tmp_path / "b.ttedge"
    write_bundle(path)
    put(path, b"old")
    with states(path, tmp_path / "copies") as found:
        put(path, b"new")
    seen = set()
    for state in found:
        bundle = Bundle.open(state)
        bundle.verify()
        (name,) = (name for name in bundle.manifest.files if is_version_of(name, "golden.safetensors"))
        seen.add(bundle.read_bytes(name))
        put(state, b"next")
        assert Bundle.open(state).verify() == []
    assert seen == {b"old", b"new"}


def test_signing(tmp_path):
    path = tmp_path / "b.ttedge"
    write_bundle(path)
    (first, old), (second, new) = (new_key(str(tmp_path / name)) for name in ("old", "new"))
    both = tmp_path / "both.pem"
    both.write_bytes(old.read_bytes() + new.read_bytes())
    sign(path, first)
    with states(path, tmp_path / "copies") as found:
        sign(path, second)
    assert len(found) >= 3
    for state in found:
        Bundle.open(state, both).check_content("decoder/network.json")
        sign(state, second)
        assert Bundle.open(state, new).verify() == []


_BUILD = """
import sys
from pathlib import Path
from tests.bundle.test_update import add
for number in range(int(sys.argv[3])):
    add(Path(sys.argv[1]), b"engine %d" % number * 100_000, sys.argv[2])
"""


def start_building(path: Path, capability: str, times: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", _BUILD, str(path), capability, str(times)])


def test_a_real_kill(tmp_path):
    """The states above are copies; these processes are really killed, at moments of chance."""
    path = tmp_path / "b.ttedge"
    write_bundle(path)
    for delay in (0.0, 0.013, 0.031, 0.057):
        before = (path / "manifest.json").stat().st_mtime_ns
        child = start_building(path, "sm89", 10_000)
        while (path / "manifest.json").stat().st_mtime_ns == before:
            assert child.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        Bundle.open(path).verify()
    add(path)
    assert Bundle.open(path).verify() == []


def test_two_builds_at_once(tmp_path):
    path = tmp_path / "b.ttedge"
    write_bundle(path)
    children = [start_building(path, capability, 20) for capability in ("sm86", "sm89", "sm120")]
    while any(child.poll() is None for child in children):
        Bundle.open(path)
    assert [child.returncode for child in children] == [0, 0, 0]
    bundle = Bundle.open(path)
    assert bundle.verify() == []
    assert {e.compute_capability for e in bundle.manifest.engines if e.flavour == "rtx"} == {"sm86", "sm89", "sm120"}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a small file system")
def test_a_disk_that_is_really_full(tmp_path):
    """On a file system of 1 MiB: an error, the old bundle whole, and nothing beside it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        write_bundle(folder / "b.ttedge")
        before = sorted(folder.rglob("*"))
        with pytest.raises(OSError, match="No space left"):
            add(folder / "b.ttedge", bytes(4 << 20))
        with pytest.raises(OSError, match="No space left"):
            write_bundle(folder / "b.ttedge", overwrite=True, note=bytes(4 << 20))
        assert [path for path in sorted(folder.rglob("*")) if path.name != "engines"] == [
            path for path in before if path.name != "engines"
        ]
        assert Bundle.open(folder / "b.ttedge").verify() == []
    finally:
        subprocess.run(["umount", folder], check=True)
