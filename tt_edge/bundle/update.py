"""Changing a finished bundle: one writer at a time, and readers see the old manifest or the new one. Torch-free."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from tt_edge.bundle.manifest import MANIFEST_FILE, EngineRecord, Evidence, Manifest
from tt_edge.bundle.writer import HashingFile, sync_folder
from tt_edge.errors import InvalidInputError

_ENGINES, _PARTIAL = "engines", ".partial-"


def edit_manifest(bundle: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace a bundle's manifest by what ``change`` makes of it, in one rename, while no other process does the same.

    A signature of the manifest is a signature of the old one from then on. Raises ``OSError`` where it cannot be written.
    """
    with locked(bundle):
        return _edit(bundle, change)


def _edit(bundle: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    path = bundle / MANIFEST_FILE
    manifest = change(Manifest.from_json(path.read_bytes()))
    replace_file(path, manifest.to_json())
    return manifest


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file of a locked bundle by ``content``, in one rename: readers see all of the old one or of the new one."""
    fresh = path.with_name(f".{path.name}.partial")  # one name: what a killed process left is written over
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def with_evidence(manifest: Manifest, evidence: Evidence) -> Manifest:
    """``manifest`` with ``evidence`` in place of what it said of the same claim."""
    others = tuple(e for e in manifest.evidence if e.claim != evidence.claim)
    return replace(manifest, evidence=(*others, evidence))


def record_evidence(bundle: Path, evidence: Evidence) -> None:
    """Put ``evidence`` into a finished bundle's manifest."""
    edit_manifest(bundle, lambda manifest: with_evidence(manifest, evidence))


class NewEngine:
    """An engine on its way into a finished bundle: write to ``file``, then ``commit``.

    Use as a context manager. Leaving the block without ``commit`` removes what was written; what a killed process left
    is removed by the next one. Until ``commit`` the bundle is what it was, and afterwards an older engine under the same
    key (flavour, version, platform, compute capability) is gone.
    """

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self._partial = bundle / _ENGINES / f"{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"
        self._file: HashingFile | None = None

    @property
    def file(self) -> BinaryIO:
        assert self._file is not None
        return self._file  # type: ignore[return-value]

    def __enter__(self) -> NewEngine:
        try:
            self._partial.parent.mkdir(exist_ok=True)
            self._remove_leftovers()
            self._file = HashingFile(self._partial)
        except OSError as error:
            raise InvalidInputError(
                f"cannot write to {self.bundle} ({error.strerror}); check its permissions and the disk"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def commit(self, record: EngineRecord, evidence: Evidence) -> EngineRecord:
        """List the engine, under a file name of its own: an older one stays whole until the manifest is replaced."""
        assert self._file is not None
        self._file.close()
        digest = self._file.record.sha256
        stem = Path(record.file)
        if stem.parent.name == _ENGINES:  # elsewhere the name is another runtime's, and the place is free
            record = replace(record, file=str(stem.with_name(f"{stem.stem}-{digest[:8]}{stem.suffix}")))
        with locked(self.bundle):
            self._partial.rename(self.bundle / record.file)
            sync_folder((self.bundle / record.file).parent)
            try:
                _edit(self.bundle, lambda manifest: self._listing(manifest, record, evidence))
            finally:  # whichever manifest is there now
                _remove_unlisted_engines(self.bundle, record.file)
        return record

    def _listing(self, manifest: Manifest, record: EngineRecord, evidence: Evidence) -> Manifest:
        assert self._file is not None
        kept = tuple(e for e in manifest.engines if e.key != record.key)
        replaced = {e.file for e in manifest.engines} - {e.file for e in kept}
        files = {name: f for name, f in manifest.files.items() if name not in replaced}
        changed = replace(manifest, files={**files, record.file: self._file.record}, engines=(*kept, record))
        return with_evidence(changed, evidence)

    def _remove_leftovers(self) -> None:
        for path in self._partial.parent.glob(f"{_PARTIAL}*"):
            pid = path.name.removeprefix(_PARTIAL).partition("-")[0]
            if not pid.isdigit() or not Path(f"/proc/{pid}").exists():
                path.unlink(missing_ok=True)


def _remove_unlisted_engines(bundle: Path, newest: str) -> None:
    """Remove engines that were replaced, and those of processes that were killed before they listed them."""
    listed = Manifest.from_json((bundle / MANIFEST_FILE).read_bytes()).files
    for path in (bundle / newest, *(bundle / _ENGINES).glob("*.engine")):
        if path.relative_to(bundle).as_posix() not in listed:
            path.unlink(missing_ok=True)


@contextmanager
def locked(bundle: Path) -> Iterator[None]:
    """Keep other processes from changing the bundle."""
    descriptor = os.open(bundle, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which unlocks
