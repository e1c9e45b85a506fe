"""Replacing files atomically, and removing leftovers of killed processes. Torch-free.

A file that is being written has a random name, ``.NAME.partial-…``, and its writer holds a lock on it (``flock``). The
system releases the lock when the writer ends, however it ends. This also works across containers, where process ids mean
nothing. So a partial file that is not locked is a leftover, and the next writer of the same name removes it.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tt_edge.folder import Folder

_PARTIAL = ".partial-"


def is_partial(found: str, name: str) -> bool:
    """Whether ``found`` is a partial name for ``name``, possibly with a suffix such as ``-old``."""
    prefix = f".{name}{_PARTIAL}"
    return found.startswith(prefix) and re.fullmatch(r"[0-9a-f]{16}(-[a-z]+)?", found[len(prefix) :]) is not None


def create_held(folder: Folder, name: str, mode: int = 0o666) -> tuple[str, io.FileIO]:
    """Create a partial file for ``name``, unbuffered, open for writing and locked until it is closed. Returns its name and
    the file."""
    while True:
        partial = _partial_name(name)
        file = folder.create(partial, mode)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # another process removed it as a leftover before we locked it


def make_held(folder: Folder, name: str) -> tuple[str, Folder]:
    """Create a partial folder for ``name``, locked as long as the object lives. Returns its name and the folder."""
    while True:
        partial = _partial_name(name)
        os.mkdir(partial, dir_fd=folder.descriptor)
        with suppress(FileNotFoundError):  # as above
            made = folder.folder(partial)
            fcntl.flock(made.descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(made.descriptor), folder.stat(partial)):
                return partial, made


def remove_leftovers(folder: Folder, name: str) -> None:
    """Remove partial files and folders for ``name`` that no live process has locked."""
    for found in folder.names():
        if is_partial(found, name):
            with leftover(folder, found) as is_left:
                if is_left:
                    folder.remove_all(found)


@contextmanager
def leftover(folder: Folder, partial: str) -> Iterator[bool]:
    """Whether no live process has locked ``partial``; if so, none can lock it inside the block."""
    descriptor = -1
    try:
        kind = folder.stat(partial).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(partial, flags, dir_fd=folder.descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_left = True  # links and pipes too: tt-edge makes none
    except OSError:  # it is locked, gone, or another user's
        is_left = False
    try:
        yield is_left
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def replacing(folder: Folder, name: str, mode: int = 0o666, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Write ``name`` atomically: readers see the whole old file or the whole new one, and an error keeps the old one.

    The new file replaces the old one when the block ends, and is flushed to disk. ``exclusive``: the file must not exist
    (``FileExistsError``). Raises ``OSError``.
    """
    remove_leftovers(folder, name)
    partial, raw = create_held(folder, name, mode)
    try:
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if exclusive:
                _put(folder, partial, name)
            else:
                folder.rename(partial, name)
        folder.sync()
    except BaseException:
        folder.remove(partial)
        raise


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Replace the file at ``path`` by ``content`` atomically. Raises ``OSError``."""
    with replacing(Folder.open(path.parent), path.name) as file:
        file.write(content)


def _partial_name(name: str) -> str:
    return f".{name}{_PARTIAL}{secrets.token_hex(8)}"


def _put(folder: Folder, partial: str, name: str) -> None:
    """Rename ``partial`` to ``name``, which must not exist. A rename would replace it; a hard link does not."""
    try:
        os.link(partial, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if folder.exists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder.path / name)) from None
        folder.rename(partial, name)
    else:
        folder.remove(partial)
