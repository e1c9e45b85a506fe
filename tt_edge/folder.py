"""Safe access to untrusted folders and files. Torch-free.

A path is resolved again each time it is used, and anyone who can write to a folder can replace a file by a link or a pipe
between two uses. So a folder is opened once. Everything in it is named relative to the open folder, one component at a
time. Links are not followed, and only regular files are opened.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PIECE = 1 << 20
#: A file of at least this many bytes counts as sparse if it occupies less than a 64th of them on disk.
_SPARSE = 16 << 20


class NotAFileError(OSError):
    """The name does not refer to a regular file; ``strerror`` says what it is."""


class CheckedFile:
    """A regular file that is open for reading: it stays the checked file, even if its name refers to another file later.

    ``path`` is for messages; ``size`` is in bytes.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self.path = descriptor, path
        weakref.finalize(self, os.close, descriptor)
        found = os.fstat(descriptor)
        _require_regular(found, path)
        self.size = found.st_size
        self.is_sparse = self.size >= _SPARSE and found.st_blocks * 512 < self.size // 64

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def descriptor(self) -> int:
        """The open descriptor; it belongs to this object."""
        return self._descriptor

    @classmethod
    def open(cls, path: Path) -> CheckedFile:
        """Open a file that the user named; links are followed. Raises ``OSError``."""
        return cls(_open_regular(path, path), path)

    def read(self, limit: int) -> bytes:
        """The first ``limit`` bytes of the content."""
        content = bytearray()
        while len(content) < limit and (
            piece := os.pread(self._descriptor, min(_PIECE, limit - len(content)), len(content))
        ):
            content += piece
        return bytes(content)

    def sha256(self) -> str:
        """SHA-256 of the content in hex; releases the GIL."""
        digest, buffer, done = hashlib.sha256(), bytearray(min(_PIECE, max(1, self.size))), 0
        view = memoryview(buffer)
        while read := os.preadv(self._descriptor, [buffer], done):
            digest.update(view[:read])
            done += read
        return digest.hexdigest()

    def map(self) -> mmap.mmap:
        """The content, memory-mapped read-only. Raises ``ValueError`` for an empty file."""
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def pieces(self, size: int = 16 << 20) -> Iterator[bytes]:
        """The content, ``size`` bytes at a time."""
        done = 0
        while piece := os.pread(self._descriptor, size, done):
            yield piece
            done += len(piece)


class Folder:
    """An open folder. Names in it are relative POSIX paths; ``path`` is for messages.

    Methods raise ``OSError``, and ``NotAFileError`` for links, pipes, devices and folders instead of a file. An object
    closes its descriptor when it is garbage-collected.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor, self.path = descriptor, path
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Open a folder that the user named; links are followed."""
        return cls(os.open(path, _FOLDER), path)

    def folder(self, name: str) -> Folder:
        """The folder ``name`` in this one."""
        found = self
        for part in PurePosixPath(name).parts:
            path = found.path / part
            try:
                descriptor = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=found.descriptor)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP) and stat.S_ISLNK(found.stat(part).st_mode):
                    raise NotAFileError(errno.ELOOP, "a symbolic link", str(path)) from None
                raise
            found = Folder(descriptor, path)
        return found

    def make_folder(self, name: str) -> Folder:
        """The folder ``name``; it and its parents are created if missing."""
        found = self
        for part in PurePosixPath(name).parts:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=found.descriptor)
            found = found.folder(part)
        return found

    def file(self, name: str) -> CheckedFile:
        """The regular file ``name``, open for reading."""
        folder, last = self._place(name)
        path = folder.path / last
        return CheckedFile(_open_regular(last, path, folder.descriptor), path)

    def create(self, name: str, mode: int = 0o666) -> io.FileIO:
        """Create a file, unbuffered and open for writing; the name must not exist, not even as a link."""
        folder, last = self._place(name)
        path = folder.path / last

        def opener(_: str, flags: int) -> int:
            return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder.descriptor)

        return open(path, "xb", buffering=0, opener=opener)

    def stat(self, name: str) -> os.stat_result:
        """The status of the entry ``name``; of a link itself, not of its target."""
        folder, last = self._place(name)
        return os.stat(last, dir_fd=folder.descriptor, follow_symlinks=False)

    def exists(self, name: str) -> bool:
        """Whether the entry ``name`` exists, even as a dangling link."""
        try:
            self.stat(name)
        except (FileNotFoundError, NotADirectoryError, NotAFileError):
            return False
        return True

    def rename(self, name: str, new: str) -> None:
        """Rename atomically; an existing file with the new name is replaced."""
        (source, old_last), (target, new_last) = self._place(name), self._place(new)
        os.rename(old_last, new_last, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, or a link without its target; no error if it does not exist."""
        folder, last = self._place(name)
        with suppress(FileNotFoundError):
            os.unlink(last, dir_fd=folder.descriptor)

    def remove_all(self, name: str) -> None:
        """Remove a file, or a folder with its contents, as far as permissions allow; links are removed, not followed."""
        try:
            if not stat.S_ISDIR(self.stat(name).st_mode):
                return self.remove(name)
            folder = self.folder(name)
            for inner in folder.names():
                folder.remove_all(inner)
            os.rmdir(name, dir_fd=self.descriptor)
        except OSError:
            return None

    def names(self) -> list[str]:
        """The names of the folder's direct entries."""
        return sorted(os.listdir(self.descriptor))

    def walk(self, prefix: str = "") -> Iterator[str]:
        """Names of everything except folders, in this folder and below; links are not followed."""
        for name in self.names():
            if stat.S_ISDIR(self.stat(name).st_mode):
                yield from self.folder(name).walk(f"{prefix}{name}/")
            else:
                yield prefix + name

    def sync(self) -> None:
        """Flush the folder to disk, so that renames in it survive a loss of power."""
        os.fsync(self.descriptor)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold an exclusive lock on the folder against other users of this method, in any process or container."""
        descriptor = os.open(
            ".", _FOLDER, dir_fd=self.descriptor
        )  # locks belong to an open file, so each needs its own
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which unlocks

    def _place(self, name: str) -> tuple[Folder, str]:
        path = PurePosixPath(name)
        return (self if len(path.parts) == 1 else self.folder(str(path.parent))), path.name


def _open_regular(name: str | Path, path: Path, dir_fd: int | None = None) -> int:
    """A descriptor of a regular file. Calls ``stat`` first, because opening a device can have side effects."""
    _require_regular(os.stat(name, dir_fd=dir_fd, follow_symlinks=dir_fd is None), path)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # does not block if it has become a pipe
    return os.open(name, flags if dir_fd is None else flags | os.O_NOFOLLOW, dir_fd=dir_fd)


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _require_regular(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        code = errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.EINVAL
        raise NotAFileError(code, _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file"), str(path))
