"""Opening a bundle: nothing in it is used before it has been checked. Torch-free."""

from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tt_edge.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST, SIGNATURE_FILE, Manifest, Part
from tt_edge.bundle.signing import REQUIRE_SIGNATURE, check_signature
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.network.ir import Network
from tt_edge.network.storage import NETWORK_FILE, WEIGHTS_FILE, read_network, read_weights

#: Tokenizer and settings files are read whole; none comes near this many bytes.
MAX_SMALL_FILE = 256 << 20


class Bundle:
    """An opened bundle: its manifest, and access to its files by name.

    A file's SHA-256 is checked when the file is first used, once. Whoever can write to the folder of an open bundle can
    still change a file after that: protect the folder.
    """

    def __init__(self, path: Path, manifest: Manifest, manifest_bytes: bytes) -> None:
        self.path, self.manifest, self.manifest_bytes = path, manifest, manifest_bytes
        self._intact: set[str] = set()

    @classmethod
    def open(cls, path: Path | str, require_signature: Path | str | None = None) -> Bundle:
        """Open a bundle; every listed file must be there, a regular file, and of the listed size.

        ``require_signature`` is a file of public keys, one of which must have signed the bundle; by default that of the
        environment variable ``TT_EDGE_REQUIRE_SIGNATURE``, if it is set. Raises ``InvalidInputError`` for a path that is
        no bundle and ``BundleError`` for a damaged one, or one without that signature.
        """
        path = Path(path)
        manifest_file = path / MANIFEST_FILE
        if not path.exists():
            raise InvalidInputError(f"bundle {path} does not exist; make it with `tt-edge compile … -o {path}`")
        if not manifest_file.is_file():
            hint = f"{'it has no manifest.json' if path.is_dir() else 'it is a file'}; give a folder written by `tt-edge compile`"
            if (path / "config.json").is_file():
                hint = f"it is a Hugging Face checkpoint; compile it first with `tt-edge compile {path} -o out.ttedge`"
            raise InvalidInputError(f"{path} is not a bundle: {hint}")
        keys = require_signature or os.environ.get(REQUIRE_SIGNATURE)
        content = _read_manifest(manifest_file)
        while True:
            if keys:
                check_signature(path, content, Path(keys))
            bundle = cls(path, Manifest.from_json(content), content)
            try:
                for name, record in bundle.manifest.files.items():
                    bundle._check_size(name, record.size)
                return bundle
            except BundleError:
                # Another process may just have replaced an engine, and the manifest with it.
                before, content = content, _read_manifest(manifest_file)
                if content == before:
                    raise

    def _check_size(self, name: str, size: int) -> None:
        path = self.path
        try:
            for part in Path(name).parts:  # a link anywhere on the way could lead out of the bundle
                path = path / part
                if path.is_symlink():
                    raise BundleError(f"{path} is a symbolic link, which a bundle must not have; copy the bundle again")
            found = path.stat()
        except OSError as error:
            raise BundleError(f"{path} is missing from the bundle ({error.strerror}); copy the bundle again") from error
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{path} is not a regular file; copy the bundle again")
        if found.st_size != size:
            raise BundleError(
                f"{path} has {found.st_size:,} bytes where the manifest says {size:,}; "
                "it was truncated or edited: copy the bundle again"
            )

    def verify(self) -> list[str]:
        """Hash every file against the manifest; return the names of files that the manifest does not list.

        Raises ``BundleError`` naming the first file whose content has changed.
        """
        self.check_content(*self.manifest.files)
        listed = {*self.manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
        present = (Path(root, name) for root, _, names in os.walk(self.path) for name in names)
        return sorted(name for p in present if (name := p.relative_to(self.path).as_posix()) not in listed)

    @property
    def is_signed(self) -> bool:
        """Whether there is a signature, of any key and of this manifest or another."""
        return (self.path / SIGNATURE_FILE).exists()

    def check_content(self, *names: str) -> None:
        """Hash listed files against the manifest, several at once; those that were hashed before are taken as they are."""
        for name in names:
            self.path_of(name)
        fresh = [name for name in names if name not in self._intact]
        with ThreadPoolExecutor(min(len(fresh), os.cpu_count() or 1) or 1, "tt-edge-hash") as pool:
            for name, found in zip(fresh, pool.map(self._digest, fresh), strict=True):
                self._compare(name, found)

    def _digest(self, name: str) -> str:
        path = self.path / name
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}); copy the bundle again") from error

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

    def path_of(self, name: str) -> Path:
        """Where a listed file lies. Raises ``BundleError`` for one that is not listed."""
        if not self.has(name):
            raise BundleError(f"bundle {self.path} has no {name}; compile the model again")
        return self.path / name

    def read_bytes(self, name: str, limit: int = MAX_SMALL_FILE) -> bytes:
        """The content of a small listed file, checked against its hash."""
        path = self.path_of(name)
        record = self.manifest.files[name]
        if record.size > limit:
            raise BundleError(f"{path} has {record.size:,} bytes, more than the {limit:,} allowed; do not use it")
        content = path.read_bytes()
        self._compare(name, hashlib.sha256(content).hexdigest())
        return content

    @property
    def has_network(self) -> bool:
        """Whether the captured network is there; a bundle may ship with engines alone."""
        return self.has(NETWORK_FILE) and self.has(WEIGHTS_FILE)

    def network(self, part: Part = Part.LLM) -> Network:
        """The captured network, its weights memory-mapped. Raises ``BundleError`` where it is not listed or malformed."""
        files = [part.file(name) for name in (NETWORK_FILE, WEIGHTS_FILE)]
        for name in files:
            if not self.has(name):
                raise BundleError(
                    f"bundle {self.path} has no {name}: it ships engines alone; use the bundle that it was made from"
                )
        self.check_content(*files)
        return read_network(self.path / part.file(""))

    def weights(self, part: Part = Part.LLM) -> dict[str, np.ndarray]:
        """The weights by name, memory-mapped. Raises ``BundleError`` where they are not listed or malformed."""
        self.check_content(part.file(WEIGHTS_FILE))
        return read_weights(self.path / part.file(WEIGHTS_FILE))


def _read_manifest(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise BundleError(f"{path} is larger than {MAX_MANIFEST >> 20} MiB; do not use it")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
