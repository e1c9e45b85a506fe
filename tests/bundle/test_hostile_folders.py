"""A bundle's folder that is made to reach outside, to hang, or to be swapped while it is open."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bundle.making import ENGINE, edit_manifest, sha256_of, write_bundle
from tests.bundle.test_update import add
from tt_edge.bundle import Bundle, Evidence
from tt_edge.bundle.keys import new_key
from tt_edge.bundle.signing import sign
from tt_edge.bundle.update import record_evidence
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.folder import Folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "tiny.ttedge"
    write_bundle(path)
    return path


@pytest.fixture
def bundle(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "tiny.ttedge")


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"secret")
    return file


def change(bundle: Path, keys: Path) -> None:
    """All that writes into a finished bundle."""
    record_evidence(Folder.open(bundle), Evidence("network", "evaluated", "matches"))
    add(bundle)
    sign(bundle, keys)


# Names that this and earlier versions write, or look for, in a bundle.
PARTIALS = [".manifest.json.partial", ".manifest.sig.partial", "manifest.sig", ".manifest.json.partial-" + "0f" * 8]


@pytest.mark.parametrize("name", [*PARTIALS, "engines/.partial-1-aa", f"engines/.new.partial-{'0f' * 8}"])
def test_nothing_is_written_through_a_link(bundle, secret, tmp_path, name):
    (bundle / name).symlink_to(secret)
    private, public = new_key(str(tmp_path / "key"))
    change(bundle, private)
    assert secret.read_bytes() == b"secret"
    Bundle.open(bundle, public).verify()


def test_no_engine_is_written_or_removed_through_a_linked_folder(bundle, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.engine").write_bytes(b"mine")
    shutil.rmtree(bundle / "engines")
    (bundle / "engines").symlink_to(outside)
    with pytest.raises(InvalidInputError, match=r"engines is a symbolic link, so no engine is written there"):
        add(bundle)
    assert os.listdir(outside) == ["mine.engine"]


def test_what_is_removed_is_not_looked_for_behind_links(bundle, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    for name in (f"engines/.new.partial-{'0f' * 8}", "engines/x.engine"):
        (bundle / name).symlink_to(outside)
    add(bundle)
    assert Bundle.open(bundle).verify() == []
    write_bundle(bundle, overwrite=True)
    assert (outside / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "link"])
@pytest.mark.parametrize("name", ["manifest.json", "config.json", ENGINE])
def test_what_is_no_file_is_refused_at_once(bundle, monkeypatch, name, kind):
    file = bundle / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        try:
            os.mknod(file, 0o20666, os.makedev(1, 5))  # /dev/zero, which has no end
        except PermissionError:
            pytest.skip("making devices is not allowed here")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            monkeypatch.chdir(file.parent)  # a socket's path is short
            made.bind(file.name)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/etc/hostname")
    start = time.monotonic()
    with pytest.raises(BundleError, match=f"{file.name} is a .*; copy the bundle again"):
        Bundle.open(bundle)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_signature_that_is_no_file_is_none(bundle, tmp_path, kind):
    private, public = new_key(str(tmp_path / "key"))
    sign(bundle, private)
    kept = (bundle / "manifest.sig").rename(tmp_path / "kept")
    os.mkfifo(bundle / "manifest.sig") if kind == "pipe" else (bundle / "manifest.sig").symlink_to(kept)
    with pytest.raises(BundleError, match=r"is not signed \(manifest\.sig: it is a (pipe|symbolic link)\)"):
        Bundle.open(bundle, public)


def test_an_open_bundle_is_what_it_was(bundle, secret, tmp_path):
    """Files that are replaced after the opening, by a build or by malice, change nothing for who has it open."""
    opened = Bundle.open(bundle)
    for name in opened.manifest.files:
        (bundle / name).unlink()
        (bundle / name).symlink_to(secret)
    assert opened.verify() == sorted(opened.manifest.files)[:0]
    assert len(opened.network().weights) > 0
    assert opened.file(ENGINE).read(6) == b"engine"
    bundle.rename(tmp_path / "moved")
    assert opened.read_bytes("config.json") == b"{}"


def test_a_file_of_holes_is_not_hashed(bundle):
    with (bundle / "config.json").open("wb") as file:
        file.truncate(1 << 42)
    edit_manifest(bundle, lambda data: data["files"]["config.json"].update(size=1 << 42))
    with pytest.raises(BundleError, match=r"config\.json has 4,398,046,511,104 bytes, nearly all of them holes"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["CONFIG.JSON", "Config.json"])
def test_names_that_are_one_file_elsewhere(bundle, name):
    shutil.copy(bundle / "config.json", bundle / name)
    record = {"size": 2, "sha256": sha256_of(bundle / name)}
    edit_manifest(bundle, lambda data: data["files"].update({name: record}))
    with pytest.raises(BundleError, match="which are one file on some systems; do not use the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["Manifest.JSON", "MANIFEST.SIG", "a\x1b[2Jb", "a\u202eb", "a\nb"])
def test_names_that_stand_for_others(bundle, name):
    edit_manifest(bundle, lambda data: data["files"].update({name: {"size": 2, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match="not a path inside the bundle; do not use it") as error:
        Bundle.open(bundle)
    assert str(error.value).isprintable()


def test_more_files_than_a_bundle_has(bundle):
    files = {f"f{i}": {"size": 2, "sha256": "0" * 64} for i in range(600)}
    edit_manifest(bundle, lambda data: data["files"].update(files))
    with pytest.raises(BundleError, match="lists more than 512 files"):
        Bundle.open(bundle)


def test_an_open_bundle_gives_its_descriptors_back(bundle):
    gc.collect()  # what earlier tests left
    before = len(os.listdir("/proc/self/fd"))
    opened = Bundle.open(bundle)
    assert len(os.listdir("/proc/self/fd")) > before
    del opened
    assert len(os.listdir("/proc/self/fd")) == before


_WRITE = """
import sys
from pathlib import Path
from tests.bundle.making import CONFIG, IDENTITY
from tests.models.decoders import compiled
from tt_edge.bundle import BundleWriter
with BundleWriter(Path(sys.argv[1]), overwrite=True) as writer:
    writer.write_bytes("config.json", sys.argv[2].encode())
    print("written", flush=True)
    sys.stdin.readline()
    writer.commit(IDENTITY, CONFIG, {"decoder": compiled()[1]})
"""


def test_two_compiles_to_one_output_in_two_containers(tmp_path):
    """Process ids mean nothing across PID namespaces: neither takes the other's files for a dead one's."""
    isolate = ["unshare", "--pid", "--fork", "--mount-proc"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*isolate, "true"], capture_output=True, check=False).returncode
    ):
        isolate = []  # not allowed here: two processes then
    target = tmp_path / "b.ttedge"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = []
    for note in ("first", "second"):
        writer = subprocess.Popen([*isolate, sys.executable, "-c", _WRITE, str(target), note], **pipes)
        assert writer.stdout.readline() == "written\n"
        writers.append(writer)
    for writer, note in zip(writers, ("first", "second"), strict=True):
        writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
        bundle = Bundle.open(target)
        assert bundle.verify() == []
        assert bundle.read_bytes("config.json") == note.encode()
    assert os.listdir(tmp_path) == ["b.ttedge"]
