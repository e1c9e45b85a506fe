"""Writing a bundle: all of it, or nothing. Torch-free."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from tt_edge.bundle.manifest import (
    MANIFEST_FILE,
    EngineRecord,
    Evidence,
    FileRecord,
    Manifest,
    ModelIdentity,
    check_name,
)
from tt_edge.config import CompileConfig
from tt_edge.contract import EngineContract
from tt_edge.errors import InvalidInputError
from tt_edge.vision_contract import VisionContract

#: Pieces of this many bytes and more are hashed beside being written.
_LARGE = 1 << 20


class HashingFile(io.RawIOBase):
    """A file open for writing that hashes what it writes, so that nothing has to be read back for the manifest.

    The record is there after ``close``.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of ``data``; raises ``OSError`` when the disk is full."""
        view = memoryview(data).cast("B")
        if view.nbytes < _LARGE:
            self._digest.update(view)
            self._write_all(view)
        else:  # both release the GIL
            hashing = threading.Thread(target=self._digest.update, args=(view,))
            hashing.start()
            try:
                self._write_all(view)
            finally:
                hashing.join()
        self.size += view.nbytes
        return view.nbytes

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < view.nbytes:
            written = self._file.write(view[done:])
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
            done += written

    def close(self) -> None:
        if not self.closed:
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()
                super().close()

    @property
    def record(self) -> FileRecord:
        return FileRecord(self.size, self._digest.hexdigest())


class BundleWriter:
    """Collects a bundle in a hidden sibling of its final place; ``commit`` puts it there in one rename.

    Use as a context manager: leaving the block without ``commit`` removes everything, whatever the reason. What a killed
    process left behind is removed by the next writer of the same bundle. Raises ``InvalidInputError`` on entry when the
    place is taken or cannot be written to.
    """

    def __init__(self, path: Path | str, *, overwrite: bool = False) -> None:
        self.target = Path(path).absolute()
        if not self.target.name:
            raise InvalidInputError(f"{str(path)!r} is no name for a bundle; give another --output")
        self.overwrite = overwrite
        self.path = self.target.with_name(f".{self.target.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
        self._files: dict[str, HashingFile] = {}
        self._engines: list[EngineRecord] = []
        self._evidence: list[Evidence] = []

    def __enter__(self) -> Self:
        parent = self.target.parent
        if not parent.is_dir():
            raise InvalidInputError(f"folder {parent} does not exist; create it or give another --output")
        try:
            remove_stale_partials(self.target)  # first: it may put an old bundle back
            self._check_place()
            self.path.mkdir()
        except OSError as error:
            raise InvalidInputError(f"cannot write to {parent} ({error.strerror}); give another --output") from error
        return self

    def _check_place(self) -> None:
        if self.target.exists() or self.target.is_symlink():
            if not self.overwrite:
                raise InvalidInputError(f"{self.target} exists already; give --overwrite or another --output")
            if not (self.target / MANIFEST_FILE).is_file():
                raise InvalidInputError(
                    f"{self.target} is not a bundle, so it is not overwritten; give another --output"
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            with suppress(OSError):  # such as a full disk; closing must not keep the rest from being removed
                file.close()
        shutil.rmtree(self.path, ignore_errors=True)  # gone already after commit

    def open(self, name: str) -> BinaryIO:
        """A new file of the bundle, open for writing; folders in ``name`` are made."""
        path = self.path / check_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = HashingFile(path)
        self._files[name] = file
        return cast(BinaryIO, file)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write one small file."""
        with self.open(name) as file:
            file.write(content)

    def add_engine(self, record: EngineRecord) -> None:
        """List an engine whose file has been written."""
        self._engines.append(record)

    def add_evidence(self, evidence: Evidence) -> None:
        """State how something about the bundle is known."""
        self._evidence.append(evidence)

    def commit(
        self,
        model: ModelIdentity,
        config: CompileConfig,
        contract: EngineContract,
        vision: VisionContract | None = None,
    ) -> Manifest:
        """Write the manifest and move the bundle into place; an old bundle there is replaced."""
        manifest = Manifest(
            model=model,
            config=config,
            contract=contract,
            files={name: file.record for name, file in self._files.items()},
            engines=tuple(self._engines),
            evidence=tuple(self._evidence),
            vision=vision,
        )
        with (self.path / MANIFEST_FILE).open("xb") as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        self._check_place()  # again: much time has passed
        if self.target.exists():
            self._replace_target()
        else:
            self.path.rename(self.target)
            sync_folder(self.target.parent)
        return manifest

    def _replace_target(self) -> None:
        """Put the new bundle in the old one's place, and remove the old one."""
        if exchange(self.path, self.target):
            sync_folder(self.target.parent)
            _remove(self.path)
            return
        aside = self.target.with_name(self.path.name + "-old")
        try:
            self.target.rename(aside)
            self.path.rename(self.target)
            sync_folder(self.target.parent)
        finally:  # whatever happens, an interrupt included, one of the two bundles stands in its place
            if not self.target.exists() and os.path.lexists(aside):
                aside.rename(self.target)
            _remove(aside)


def exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step that nobody sees the middle of; ``False`` where the system or file system cannot.

    Linux's ``renameat2``, which Python does not have. Without it there is a moment without a bundle.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of fcntl.h
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def remove_stale_partials(target: Path) -> None:
    """Remove what killed writers of ``target`` left; if one died between its two renames, put the old bundle back."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.partial-(\d+)-[0-9a-f]+(-old)?")
    for path in target.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match is None or _is_alive(int(match[1])):
            continue
        if match[2] and not target.exists():
            path.rename(target)
        else:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one but not what it points to."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
