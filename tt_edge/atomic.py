"""Replacing files in one step, and telling what a killed process left from what a living one still writes. Torch-free.

What is being written has a random name of its own, ``.NAME.partial-…``, and its writer holds a lock on it (``flock``).
The system drops the lock when the writer ends, however it ends, and it does so across containers, where process ids
mean nothing. So a partial file that nobody holds is a leftover, and the next writer of the same name removes it.
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
    """Whether ``found`` is a partial name of ``name``, or one with a suffix such as ``-old``."""
    prefix = f".{name}{_PARTIAL}"
    return found.startswith(prefix) and re.fullmatch(r"[0-9a-f]{16}(-[a-z]+)?", found[len(prefix) :]) is not None


def create_held(folder: Folder, name: str, mode: int = 0o666) -> tuple[str, io.FileIO]:
    """A new partial file for ``name``, unbuffered, open for writing and locked until it is closed; its name and itself."""
    while True:
        partial = _partial_name(name)
        file = folder.create(partial, mode)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return partial, file
        file.close()  # before it was locked, another process took it for a leftover


def make_held(folder: Folder, name: str) -> tuple[str, Folder]:
    """A new partial folder for ``name``, locked as long as the object lives; its name and itself."""
    while True:
        partial = _partial_name(name)
        os.mkdir(partial, dir_fd=folder.descriptor)
        with suppress(FileNotFoundError):  # as above
            made = folder.folder(partial)
            fcntl.flock(made.descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(made.descriptor), folder.stat(partial)):
                return partial, made


def remove_leftovers(folder: Folder, name: str) -> None:
    """Remove partial files and folders of ``name`` that no living process holds."""
    for found in folder.names():
        if is_partial(found, name):
            with leftover(folder, found) as is_left:
                if is_left:
                    folder.remove_all(found)


@contextmanager
def leftover(folder: Folder, partial: str) -> Iterator[bool]:
    """Whether no living process holds ``partial``; where none does, none can take hold of it inside the block."""
    descriptor = -1
    try:
        kind = folder.stat(partial).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(partial, flags, dir_fd=folder.descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_left = True  # links and pipes too: tt-edge makes none
    except OSError:  # it is held, gone, or somebody else's
        is_left = False
    try:
        yield is_left
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def replacing(folder: Folder, name: str, mode: int = 0o666, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Write ``name`` anew: readers see all of the old file or all of the new one, and an error leaves the old one.

    The new file takes the old one's place when the block ends, and is on the disk then. ``exclusive``: there must be
    no old one (``FileExistsError``). Raises ``OSError``.
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
    """Replace the file at ``path`` by ``content`` in one step. Raises ``OSError``."""
    with replacing(Folder.open(path.parent), path.name) as file:
        file.write(content)


def _partial_name(name: str) -> str:
    return f".{name}{_PARTIAL}{secrets.token_hex(8)}"


def _put(folder: Folder, partial: str, name: str) -> None:
    """Rename where nothing has the new name. A rename replaces what has it; a second link does not."""
    try:
        os.link(partial, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if folder.exists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder.path / name)) from None
        folder.rename(partial, name)
    else:
        folder.remove(partial)
