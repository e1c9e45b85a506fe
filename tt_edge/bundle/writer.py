"""Writing a bundle atomically. Torch-free."""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from tt_edge.atomic import is_partial, leftover, make_held
from tt_edge.bundle.hashing import HashingFile
from tt_edge.bundle.manifest import EngineRecord, Evidence, Manifest, ModelIdentity
from tt_edge.bundle.names import MANIFEST_FILE, check_name
from tt_edge.compat import Self
from tt_edge.config import CompileConfig
from tt_edge.contract import IOContract
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.folder import Folder

_OLD = "-old"


class BundleWriter:
    """Writes a bundle to a hidden folder beside its destination; ``commit`` moves it there in one rename.

    Use as a context manager: leaving the block without ``commit`` removes everything. Leftovers of a killed process are
    removed by the next writer of the same bundle; files that a live process is writing, in this container or another, are
    not. Raises ``InvalidInputError`` on entry if the destination exists or cannot be written.
    """

    def __init__(self, path: Path | str, *, overwrite: bool = False) -> None:
        self.target = Path(path).absolute()
        if not self.target.name:
            raise InvalidInputError(f"{str(path)!r} is no name for a bundle; give another --output")
        self.overwrite = overwrite
        self._files: dict[str, HashingFile] = {}
        self._engines: list[EngineRecord] = []
        self._evidence: list[Evidence] = []

    @property
    def path(self) -> Path:
        """The path of the unfinished bundle."""
        return self._folder.path

    def __enter__(self) -> Self:
        parent = self.target.parent
        if not parent.is_dir():
            raise InvalidInputError(f"folder {parent} does not exist; create it or give another --output")
        try:
            self._parent = Folder.open(parent)
            remove_stale_partials(self._parent, self.target.name)  # first: it may put an old bundle back
            self._check_place()
            self._partial, self._folder = make_held(self._parent, self.target.name)
        except OSError as error:
            raise InvalidInputError(f"cannot write to {parent} ({error.strerror}); give another --output") from error
        return self

    def _check_place(self) -> None:
        if self._parent.exists(self.target.name):
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
        self._parent.remove_all(self._partial)  # gone already after commit

    def open(self, name: str) -> BinaryIO:
        """A new file of the bundle, open for writing; folders in ``name`` are created."""
        check_name(name)
        self._folder.make_folder(str(Path(name).parent))
        file = self._files[name] = HashingFile(self._folder.create(name))
        return cast(BinaryIO, file)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write one small file."""
        with self.open(name) as file:
            file.write(content)

    def add_engine(self, record: EngineRecord) -> None:
        """Add an engine, whose file has been written, to the manifest."""
        self._engines.append(record)

    def add_evidence(self, evidence: Evidence) -> None:
        """Add evidence to the manifest."""
        self._evidence.append(evidence)

    def commit(
        self,
        model: ModelIdentity,
        config: CompileConfig,
        parts: Mapping[str, IOContract],
        compile_seconds: Mapping[str, float] | None = None,
    ) -> Manifest:
        """Write the manifest and move the bundle into place; an old bundle there is replaced. ``compile_seconds`` are by stage.

        Raises ``BundleError`` if another process removed or replaced a file of the unfinished bundle.
        """
        manifest = Manifest(
            model=model,
            config=config,
            parts=parts,
            files={name: file.record for name, file in self._files.items()},
            engines=tuple(self._engines),
            evidence=tuple(self._evidence),
            compile_seconds=compile_seconds or {},
        )
        with io.BufferedWriter(self._folder.create(MANIFEST_FILE)) as file:
            file.write(manifest.to_json())
            file.flush()
            os.fsync(file.fileno())
        self._check_files()
        self._check_place()  # again: much time has passed
        if self._parent.exists(self.target.name):
            self._replace_target()
        else:
            self._parent.rename(self._partial, self.target.name)
            self._parent.sync()
        fcntl.flock(self._folder.descriptor, fcntl.LOCK_UN)  # the finished bundle is in place
        return manifest

    def _check_files(self) -> None:
        for name, file in self._files.items():
            try:
                found = self._folder.stat(name)
            except OSError as error:
                raise BundleError(f"{name} of the new bundle is gone ({error.strerror}); compile again") from error
            if not file.is_still(found):
                raise BundleError(f"{name} of the new bundle was changed by another process; compile again")

    def _replace_target(self) -> None:
        """Move the new bundle to the old one's place, and remove the old one."""
        if exchange(self._parent, self._partial, self.target.name):
            self._parent.sync()
            self._parent.remove_all(self._partial)
            return
        aside = self._partial + _OLD
        with suppress(OSError):  # fails for a link, which is replaced too
            old = self._parent.folder(self.target.name)
            fcntl.flock(old.descriptor, fcntl.LOCK_EX)  # otherwise another writer would take it for a leftover
        try:
            self._parent.rename(self.target.name, aside)
            self._parent.rename(self._partial, self.target.name)
            self._parent.sync()
        finally:  # even after an interrupt, one of the two bundles must be in place
            if not self._parent.exists(self.target.name) and self._parent.exists(aside):
                self._parent.rename(aside, self.target.name)
            self._parent.remove_all(aside)


def exchange(folder: Folder, one: str, other: str) -> bool:
    """Swap two names atomically; ``False`` if the system or file system does not support that.

    Uses Linux's ``renameat2``, which Python does not expose. Without it there is a moment without a bundle.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = folder.descriptor, 2  # RENAME_EXCHANGE of fcntl.h
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def remove_stale_partials(parent: Folder, name: str) -> None:
    """Remove leftovers of killed writers of ``name``; if one died between its two renames, restore the old bundle."""
    for found in parent.names():
        if not is_partial(found, name):
            continue
        with leftover(parent, found) as is_left:
            if not is_left:
                continue
            if found.endswith(_OLD) and not parent.exists(name):
                parent.rename(found, name)
            else:
                parent.remove_all(found)
