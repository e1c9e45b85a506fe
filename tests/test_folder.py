"""Folders and files that nobody vouches for."""

from __future__ import annotations

import os

import pytest

from tt_edge.folder import CheckedFile, Folder, NotAFileError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub").mkdir()
    (tmp_path / "in" / "sub" / "file").write_bytes(b"content")
    return Folder.open(tmp_path / "in")


def test_a_file_is_what_was_opened(folder, tmp_path):
    file = folder.file("sub/file")
    (tmp_path / "in" / "sub" / "file").rename(tmp_path / "moved")
    (tmp_path / "in" / "sub" / "file").write_bytes(b"another")
    assert file.read(100) == b"content"
    assert file.read(3) == b"con"
    assert bytes(file.map()) == b"content"
    assert b"".join(file.pieces(2)) == b"content"
    assert file.sha256() == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert (file.size, file.name, file.path) == (7, "file", tmp_path / "in" / "sub" / "file")


@pytest.mark.parametrize("name", ["link", "linked/file"])
def test_links_are_not_followed(folder, tmp_path, name):
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "sub" / "file")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "in" / "sub")
    for use in (folder.file, folder.create):
        with pytest.raises(OSError, match=r"a symbolic link|File exists"):
            use(name)


def test_what_is_no_file_is_not_opened(folder, tmp_path):
    os.mkfifo(tmp_path / "in" / "pipe")
    with pytest.raises(NotAFileError, match="a pipe"):
        folder.file("pipe")
    with pytest.raises(NotAFileError, match="a folder"):
        folder.file("sub")
    with pytest.raises(NotAFileError, match="a pipe"):
        CheckedFile.open(tmp_path / "in" / "pipe")


def test_removing_a_tree_ends_at_links(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"")
    (tmp_path / "in" / "sub" / "link").symlink_to(outside)
    folder.remove_all("sub")
    assert folder.names() == []
    assert os.listdir(outside) == ["mine"]


def test_walking(folder, tmp_path):
    (tmp_path / "in" / "a").symlink_to(tmp_path)
    assert sorted(folder.walk()) == ["a", "sub/file"]


def test_locks_exclude_each_other(folder, tmp_path):
    import fcntl

    other = os.open(tmp_path / "in", os.O_RDONLY)
    with folder.locked(), pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
