"""Opening a bundle. Everything in it is checked before it is used. Torch-free."""

from __future__ import annotations

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tt_edge.bundle.consistency import check_contract, check_network
from tt_edge.bundle.hash_ahead import HashingAhead
from tt_edge.bundle.keys import check_signature, required_keys
from tt_edge.bundle.manifest import DECODER, MAX_MANIFEST, Manifest, part_file
from tt_edge.bundle.names import MANIFEST_FILE, SIGNATURE_FILE
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.folder import CheckedFile, Folder, NotAFileError
from tt_edge.network.ir import Network
from tt_edge.network.storage import NETWORK_FILE, WEIGHTS_FILE, read_network, read_weights

#: Size limit in bytes of tokenizer and settings files, which are read whole; real ones are much smaller.
MAX_SMALL_FILE = 256 << 20


class Bundle:
    """An opened bundle: its manifest, and access to its files by name.

    The folder and every listed file are opened once, and all reads use these open files: replacing, renaming or linking
    files does not affect an open bundle. A file's SHA-256 is checked once, on first use. Anyone who can write to a file can
    still change its content after that, so protect the folder.
    """

    def __init__(
        self, folder: Folder, manifest: Manifest, manifest_bytes: bytes, files: dict[str, CheckedFile]
    ) -> None:
        self.folder, self.path = folder, folder.path
        self.manifest, self.manifest_bytes, self._files = manifest, manifest_bytes, files
        self._intact: set[str] = set()
        self._ahead = HashingAhead({})

    @classmethod
    def open(cls, path: Path | str, require_signature: Path | str | None = None) -> Bundle:
        """Open a bundle; every listed file must be a regular file of the listed size.

        ``require_signature`` is a file of public keys, one of which must have signed the bundle; by default that of the
        environment variable ``TT_EDGE_REQUIRE_SIGNATURE``, if it is set. Raises ``InvalidInputError`` for a path that is
        not a bundle and ``BundleError`` for a damaged one, or one without that signature.
        """
        keys = required_keys(require_signature)
        return cls.in_folder(_open_folder(Path(path)), keys)

    @classmethod
    def in_folder(cls, folder: Folder, keys: Path | None = None) -> Bundle:
        """Open the bundle in a folder; it must be signed with one of the public ``keys``, if given. See ``open``."""
        content = _read_manifest(folder)
        while True:
            if keys is not None:
                check_signature(folder, content, keys)
            manifest = Manifest.from_json(content)
            for part, contract in manifest.parts.items():
                check_contract(part, contract)
            try:
                files = {name: _open_file(folder, name, record.size) for name, record in manifest.files.items()}
                return cls(folder, manifest, content, files)
            except BundleError:
                # Another process may have just replaced an engine and the manifest.
                before, content = content, _read_manifest(folder)
                if content == before:
                    raise

    def verify(self) -> list[str]:
        """Hash every file against the manifest; return the names of files that the manifest does not list.

        Raises ``BundleError`` naming the first file whose content has changed.
        """
        self.check_content(*self.manifest.files)
        listed = {*self.manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
        return sorted(name for name in self.folder.walk() if name not in listed)

    @property
    def is_signed(self) -> bool:
        """Whether a signature file exists; it is not checked."""
        return self.folder.exists(SIGNATURE_FILE)

    def hash_ahead(self, *names: str) -> None:
        """Begin to hash large listed files in a process of its own; ``check_content`` waits for it.

        Every file is still checked before it is used: this only begins earlier. Names that are not listed are ignored.
        """
        self._ahead = HashingAhead({n: self._files[n] for n in names if n in self._files and n not in self._intact})

    def check_content(self, *names: str) -> None:
        """Hash listed files against the manifest, several at once; files that were hashed before are skipped."""
        files = {name: self._file(name) for name in names if name not in self._intact}
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1) or 1, "tt-edge-hash") as pool:
            for name, found in zip(files, pool.map(self._sha256, files), strict=True):
                self._compare(name, found)

    def _sha256(self, name: str) -> str:
        return self._ahead.sha256(name) or _sha256(self._files[name])

    def _compare(self, name: str, found: str) -> None:
        listed = self.manifest.files[name].sha256
        if found != listed:
            raise BundleError(
                f"{self.path / name} was edited: its SHA-256 is {found[:12]}…, the manifest says {listed[:12]}…; "
                "copy the bundle again"
            )
        self._intact.add(name)

    def has(self, name: str) -> bool:
        """Whether the manifest lists ``name``."""
        return name in self.manifest.files

    def file(self, name: str) -> CheckedFile:
        """A listed file with checked content. Raises ``BundleError`` if it is not listed or was changed."""
        self.check_content(name)
        return self._file(name)

    def _file(self, name: str) -> CheckedFile:
        if not self.has(name):
            raise BundleError(f"bundle {self.path} has no {name}; compile the model again")
        return self._files[name]

    def read_bytes(self, name: str, limit: int = MAX_SMALL_FILE) -> bytes:
        """The content of a small listed file, checked against its hash."""
        file = self._file(name)
        if file.size > limit:
            raise BundleError(f"{file.path} has {file.size:,} bytes, more than the {limit:,} allowed; do not use it")
        content = file.read(limit + 1)
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    @property
    def has_network(self) -> bool:
        """Whether the bundle has the captured network of every part; a bundle may ship with engines only."""
        names = (part_file(part, name) for part in self.manifest.parts for name in (NETWORK_FILE, WEIGHTS_FILE))
        return all(self.has(name) for name in names)

    def network(self, part: str = DECODER) -> Network:
        """The captured network with memory-mapped weights. Raises ``BundleError`` if it is not listed or malformed."""
        names = [part_file(part, name) for name in (NETWORK_FILE, WEIGHTS_FILE)]
        for name in names:
            if not self.has(name):
                raise BundleError(
                    f"bundle {self.path} has no {name}: it ships engines only; use the bundle that it was made from"
                )
        self.check_content(*names)
        network = read_network(*map(self.file, names))
        check_network(part, network, self.manifest.part(part))
        return network

    def weights(self, part: str = DECODER) -> dict[str, np.ndarray]:
        """The memory-mapped weights by name. Raises ``BundleError`` if they are not listed or malformed."""
        return read_weights(self.file(part_file(part, WEIGHTS_FILE)))


def _open_folder(path: Path) -> Folder:
    try:
        return Folder.open(path)
    except FileNotFoundError as error:
        raise InvalidInputError(f"bundle {path} does not exist; make it with `tt-edge compile … -o {path}`") from error
    except NotADirectoryError as error:
        raise InvalidInputError(
            f"{path} is not a bundle: it is a file; give a folder written by `tt-edge compile`"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be opened ({_reason(error)}); check its permissions") from error


def _read_manifest(folder: Folder) -> bytes:
    path = folder.path / MANIFEST_FILE
    try:
        content = folder.file(MANIFEST_FILE).read(MAX_MANIFEST + 1)
    except FileNotFoundError as error:
        hint = "it has no manifest.json; give a folder written by `tt-edge compile`"
        if folder.exists("config.json"):
            checkpoint = folder.path
            hint = (
                f"it is a Hugging Face checkpoint; compile it first with `tt-edge compile {checkpoint} -o out.ttedge`"
            )
        raise InvalidInputError(f"{folder.path} is not a bundle: {hint}") from error
    except NotAFileError as error:
        raise BundleError(f"{path} is {error.strerror}, not a regular file; copy the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if len(content) > MAX_MANIFEST:
        raise BundleError(f"{path} is larger than {MAX_MANIFEST >> 20} MiB; do not use it")
    return content


def _open_file(folder: Folder, name: str, size: int) -> CheckedFile:
    path = folder.path / name
    try:
        file = folder.file(name)
    except NotAFileError as error:
        what = "which a bundle must not have" if error.errno == errno.ELOOP else "not a regular file"
        raise BundleError(f"{error.filename} is {error.strerror}, {what}; copy the bundle again") from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise BundleError(f"{path} cannot be opened ({error.strerror}); allow more with `ulimit -n`") from error
        raise BundleError(f"{path} is missing from the bundle ({error.strerror}); copy the bundle again") from error
    if file.size != size:
        raise BundleError(
            f"{path} has {file.size:,} bytes where the manifest says {size:,}; it was truncated or edited: copy the "
            "bundle again"
        )
    if file.is_sparse:
        raise BundleError(f"{path} has {size:,} bytes, nearly all of them holes; copy the bundle again")
    return file


def _sha256(file: CheckedFile) -> str:
    try:
        return file.sha256()
    except OSError as error:
        raise BundleError(f"{file.path} cannot be read ({error.strerror}); copy the bundle again") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
