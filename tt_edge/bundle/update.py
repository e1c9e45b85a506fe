"""Changing a finished bundle: one writer at a time; readers see the old manifest or the new one. Torch-free."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from tt_edge.atomic import create_held, remove_leftovers, replacing
from tt_edge.bundle.hashing import HashingFile
from tt_edge.bundle.manifest import MAX_MANIFEST, EngineRecord, Evidence, FileRecord, Manifest
from tt_edge.bundle.names import MANIFEST_FILE
from tt_edge.errors import InvalidInputError
from tt_edge.folder import Folder, NotAFileError

_ENGINES, _ENGINE = "engines", "new"


def edit_manifest(bundle: Folder, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Apply ``change`` to a bundle's manifest and replace it atomically, under a lock against other processes.

    An existing signature becomes invalid. Raises ``OSError`` if the manifest cannot be written.
    """
    with bundle.locked():
        return _edit(bundle, change)


def _edit(bundle: Folder, change: Callable[[Manifest], Manifest]) -> Manifest:
    manifest = change(_manifest(bundle))
    with replacing(bundle, MANIFEST_FILE) as file:
        file.write(manifest.to_json())
    return manifest


def _manifest(bundle: Folder) -> Manifest:
    return Manifest.from_json(bundle.file(MANIFEST_FILE).read(MAX_MANIFEST + 1))


def with_evidence(manifest: Manifest, evidence: Evidence) -> Manifest:
    """``manifest`` with ``evidence``, which replaces earlier evidence for the same claim."""
    others = tuple(e for e in manifest.evidence if e.claim != evidence.claim)
    return replace(manifest, evidence=(*others, evidence))


def record_evidence(bundle: Folder, evidence: Evidence) -> None:
    """Record ``evidence`` in a finished bundle's manifest."""
    edit_manifest(bundle, lambda manifest: with_evidence(manifest, evidence))


def put_file(bundle: Folder, name: str, content: bytes, evidence: Sequence[Evidence] = ()) -> str:
    """Add a small file to a finished bundle, or replace it. Returns the name under which it is listed.

    ``name`` such as ``golden.safetensors`` becomes ``golden-1a2b3c4d.safetensors``, with a digest of the content: an older
    file stays unchanged until the manifest is replaced, and is then removed. ``evidence`` is recorded in the same step. An
    existing signature becomes invalid. Raises ``OSError``.
    """
    digest = hashlib.sha256(content).hexdigest()
    stem, dot, suffix = name.rpartition(".")
    own = f"{stem}-{digest[:8]}{dot}{suffix}"

    def listing(manifest: Manifest) -> Manifest:
        files = {key: record for key, record in manifest.files.items() if not is_version_of(key, name)}
        changed = replace(manifest, files={**files, own: FileRecord(len(content), digest)})
        for found in evidence:
            changed = with_evidence(changed, found)
        return changed

    with bundle.locked():
        remove_leftovers(bundle, name)
        partial, raw = create_held(bundle, name)
        try:
            with io.BufferedWriter(raw) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                bundle.rename(partial, own)
            bundle.sync()
            _edit(bundle, listing)
        except BaseException:
            bundle.remove(partial)
            raise
        finally:  # whichever manifest is there now; a process that was killed may have left others
            listed = _manifest(bundle).files
            for found in bundle.names():
                if is_version_of(found, name) and found not in listed:
                    bundle.remove(found)
    return own


def is_version_of(listed: str, name: str) -> bool:
    """Whether ``listed`` is a name that ``put_file`` makes from ``name``."""
    stem, _, suffix = name.rpartition(".")
    return re.fullmatch(rf"{re.escape(stem)}-[0-9a-f]{{8}}\.{re.escape(suffix)}", listed) is not None


class NewEngine:
    """Adds an engine to a finished bundle: write to ``file``, then ``commit``.

    Use as a context manager. Leaving the block without ``commit`` removes the file; leftovers of a killed process are
    removed by the next one. The bundle is unchanged until ``commit``, which also removes an older engine under the same
    key (flavour, version, platform, compute capability).
    """

    def __init__(self, bundle: Folder) -> None:
        self.bundle = bundle
        self._file: HashingFile | None = None

    @property
    def file(self) -> BinaryIO:
        return cast(BinaryIO, self._open_file)

    @property
    def _open_file(self) -> HashingFile:
        assert self._file is not None
        return self._file

    def __enter__(self) -> NewEngine:
        try:
            self._engines = self.bundle.make_folder(_ENGINES)
            remove_leftovers(self._engines, _ENGINE)
            self._partial, raw = create_held(self._engines, _ENGINE)
            self._file = HashingFile(raw)
        except NotAFileError as error:
            raise InvalidInputError(
                f"{error.filename} is {error.strerror}, so no engine is written there; copy the bundle again"
            ) from error
        except OSError as error:
            raise InvalidInputError(
                f"cannot write to {self.bundle.path} ({error.strerror}); check its permissions and the disk"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._engines.remove(self._partial)
        self._open_file.release()

    def commit(self, record: EngineRecord, evidence: Evidence) -> EngineRecord:
        """List the engine under a unique file name: an older one stays unchanged until the manifest is replaced."""
        file = self._open_file
        file.finish()
        stem = PurePosixPath(record.file)
        if stem.parent.name == _ENGINES:  # elsewhere another runtime prescribes the name, and there is no older engine
            record = replace(record, file=str(stem.with_name(f"{stem.stem}-{file.record.sha256[:8]}{stem.suffix}")))
        with self.bundle.locked():
            self.bundle.rename(f"{_ENGINES}/{self._partial}", record.file)
            self.bundle.sync()
            self._engines.sync()
            try:
                _edit(self.bundle, lambda manifest: self._listing(manifest, record, evidence))
            finally:  # whichever manifest is there now
                _remove_unlisted_engines(self.bundle, record.file)
        return record

    def _listing(self, manifest: Manifest, record: EngineRecord, evidence: Evidence) -> Manifest:
        kept = tuple(e for e in manifest.engines if e.key != record.key)
        replaced = {e.file for e in manifest.engines} - {e.file for e in kept}
        files = {name: f for name, f in manifest.files.items() if name not in replaced}
        changed = replace(manifest, files={**files, record.file: self._open_file.record}, engines=(*kept, record))
        return with_evidence(changed, evidence)


def _remove_unlisted_engines(bundle: Folder, newest: str) -> None:
    """Remove engines that were replaced, and those of processes that were killed before they listed them."""
    listed = _manifest(bundle).files
    found = [f"{_ENGINES}/{name}" for name in bundle.folder(_ENGINES).names() if name.endswith(".engine")]
    for name in (newest, *found):
        if name not in listed:
            bundle.remove(name)
