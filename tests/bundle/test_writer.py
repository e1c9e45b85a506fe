"""All of a bundle or nothing, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.bundle.making import CONFIG, IDENTITY, sha256_of, write_bundle
from tests.models.decoders import compiled
from tt_edge.bundle import Bundle, BundleWriter, writer
from tt_edge.bundle.hashing import HashingFile
from tt_edge.bundle.writer import exchange
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.folder import Folder

DEAD = "00ff" * 4  #: in names of files that no process holds


@pytest.fixture
def target(tmp_path):
    return tmp_path / "tiny.ttedge"


def note_of(bundle: Path) -> bytes:
    return (bundle / "config.json").read_bytes()


def test_a_bundle_holds_what_was_written(target):
    manifest = write_bundle(target)
    assert list(target.parent.iterdir()) == [target]
    assert set(manifest.files) == {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} - {
        "manifest.json"
    }
    for name, record in manifest.files.items():
        assert (record.size, record.sha256) == ((target / name).stat().st_size, sha256_of(target / name))
    assert Bundle.open(target).manifest == manifest


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write_bundle(tmp_path / "a")
    write_bundle(tmp_path / "b")
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_leaving_by_an_error_leaves_nothing_and_keeps_the_old_bundle(target, error, old):
    if old:
        write_bundle(target, note=b"old")

    def interrupted() -> None:
        with BundleWriter(target, overwrite=True) as writer:
            writer.write_bytes("config.json", b"new")
            writer.open("weights.safetensors").write(b"half")  # still open
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(target.parent.iterdir()) == ([target] if old else [])
    assert not old or note_of(target) == b"old"


def test_leaving_without_commit_leaves_nothing(target):
    with BundleWriter(target) as writer:
        writer.write_bytes("config.json", b"{}")
    assert list(target.parent.iterdir()) == []


def test_overwrite_replaces_the_whole_bundle(target):
    write_bundle(target, note=b"old")
    (target / "left over").write_bytes(b"")
    write_bundle(target, overwrite=True, note=b"new")
    assert note_of(target) == b"new"
    assert Bundle.open(target).verify() == []
    assert list(target.parent.iterdir()) == [target]


def test_an_existing_bundle_is_not_replaced_unasked(target):
    write_bundle(target, note=b"old")
    with pytest.raises(InvalidInputError, match=r"tiny\.ttedge exists already; give --overwrite or another --output"):
        write_bundle(target)
    assert note_of(target) == b"old"


def test_a_bundle_that_appears_meanwhile_is_not_replaced_unasked(target):
    with BundleWriter(target) as writer:
        write_bundle(target, note=b"other")
        with pytest.raises(InvalidInputError, match="exists already"):
            writer.commit(IDENTITY, CONFIG, {"decoder": compiled()[1]})
    assert note_of(target) == b"other"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_is_no_bundle_is_never_overwritten(target, kind):
    if kind == "file":
        target.write_text("mine")
    elif kind == "folder":
        (target / "mine").mkdir(parents=True)
    else:
        target.symlink_to("nowhere")
    with pytest.raises(InvalidInputError, match="is not a bundle, so it is not overwritten; give another --output"):
        write_bundle(target, overwrite=True)
    assert list(target.parent.iterdir()) == [target]


def test_overwriting_through_a_link_replaces_the_link_alone(target, tmp_path):
    real = tmp_path / "real"
    write_bundle(real, note=b"old")
    target.symlink_to(real)
    write_bundle(target, overwrite=True, note=b"new")
    assert (note_of(real), note_of(target)) == (b"old", b"new")
    assert sorted(tmp_path.iterdir()) == [real, target]


@pytest.fixture
def without_exchange(monkeypatch):
    """A file system that cannot swap two paths in one step."""
    monkeypatch.setattr(writer, "exchange", lambda *names: False)


def test_two_folders_change_places(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    folder = Folder.open(tmp_path)
    if not exchange(folder, "a", "b"):
        pytest.skip("this file system has no RENAME_EXCHANGE")
    assert [(tmp_path / name / "file").read_text() for name in "ab"] == ["b", "a"]
    assert not exchange(folder, "a", "missing")


@pytest.mark.usefixtures("without_exchange")
@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [1, 2])
def test_an_error_between_the_renames_puts_the_old_bundle_back(target, monkeypatch, step, error):
    write_bundle(target, note=b"old")
    rename, calls = Folder.rename, []

    def failing(folder, name, to):
        calls.append(name)
        if len(calls) == step:
            raise error
        return rename(folder, name, to)

    monkeypatch.setattr(Folder, "rename", failing)
    with pytest.raises(type(error)):
        write_bundle(target, overwrite=True, note=b"new")
    assert note_of(target) == b"old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.usefixtures("without_exchange")
def test_an_interrupt_after_the_renames_leaves_the_new_bundle_alone(target, monkeypatch):
    write_bundle(target, note=b"old")
    rename, calls = Folder.rename, []

    def interrupted(folder, name, to):
        calls.append(name)
        rename(folder, name, to)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(target, overwrite=True, note=b"new")
    assert note_of(target) == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_leaves_nothing(target, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(target)
    assert list(target.parent.iterdir()) == []


def test_what_a_dead_writer_left_is_removed(target):
    write_bundle(target)
    for suffix in ("", "-old"):
        (target.parent / f".{target.name}.partial-{DEAD}{suffix}" / "deep").mkdir(parents=True)
    write_bundle(target.with_name("unrelated"))
    assert len(list(target.parent.iterdir())) == 4, "only writers of the same bundle clean up"
    write_bundle(target, overwrite=True)
    assert sorted(target.parent.iterdir()) == [target, target.with_name("unrelated")]


def test_a_living_writers_files_stay(target):
    with BundleWriter(target) as other:
        write_bundle(target)
        assert other.path.is_dir()


def test_a_file_of_ones_own_that_looks_like_a_partial_one_stays(target):
    notes = target.parent / f".{target.name}.partial-notes"
    notes.write_text("mine")
    write_bundle(target)
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_bundle_that_lost_a_file_while_it_was_written_is_not_committed(target, how):
    _, contract = compiled()
    with BundleWriter(target) as writer:
        writer.write_bytes("config.json", b"{}")
        (writer.path / "config.json").unlink()
        if how == "replaced":
            (writer.path / "config.json").write_bytes(b"[]")
        reason = {"removed": "is gone", "replaced": "was changed by another process"}[how]
        with pytest.raises(BundleError, match=rf"config\.json of the new bundle {reason}.*; compile again"):
            writer.commit(IDENTITY, CONFIG, {"decoder": contract})
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_old_bundle_of_a_writer_that_died_between_its_renames_comes_back(target, overwrite):
    write_bundle(target, note=b"old")
    target.rename(target.parent / f".{target.name}.partial-{DEAD}-old")
    if overwrite:
        with pytest.raises(RuntimeError), BundleWriter(target, overwrite=True):
            raise RuntimeError
    else:
        with pytest.raises(InvalidInputError, match="exists already"), BundleWriter(target):
            pass
    assert note_of(target) == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_places_that_cannot_be_written_to(tmp_path):
    with pytest.raises(InvalidInputError, match=r"folder .*missing does not exist; create it or give another --output"):
        write_bundle(tmp_path / "missing" / "tiny.ttedge")
    with pytest.raises(InvalidInputError, match="'/' is no name for a bundle; give another --output"):
        write_bundle(Path("/"))
    with pytest.raises(InvalidInputError, match=r"cannot write to .* \(File name too long\); give another --output"):
        write_bundle(tmp_path / ("n" * 250))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "manifest.json", "", "a//b"])
def test_files_stay_inside_the_bundle(target, name):
    with pytest.raises(BundleError, match="not a path inside the bundle"), BundleWriter(target) as writer:
        writer.open(name)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("sizes", [(), (0,), (5, 0, 7), (3, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)])
def test_hashing_file_knows_its_size_and_hash(tmp_path, sizes):
    path = tmp_path / "f"
    with HashingFile(path.open("xb", buffering=0)) as file:
        for size in sizes:
            assert file.write(memoryview(os.urandom(size))) == size
    assert (file.record.size, file.record.sha256) == (sum(sizes), sha256_of(path))
