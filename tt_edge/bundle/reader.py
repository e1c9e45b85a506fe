"""Opening a bundle: nothing in it is used before it has been checked. Torch-free."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tt_edge.bundle.manifest import MANIFEST_FILE, MAX_MANIFEST, Manifest
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.network.ir import Network

#: Tokenizer and settings files are read whole; none comes near this many bytes.
MAX_SMALL_FILE = 256 << 20


class Bundle:
    """An opened bundle: its manifest, and access to its files by name."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Open a bundle; every listed file must be there, a regular file, and of the listed size.

        Contents are hashed by ``verify``, not here: hashing takes a second a gigabyte. Raises ``InvalidInputError`` for a
        path that is no bundle and ``BundleError`` for a damaged one.
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
        try:
            if manifest_file.stat().st_size > MAX_MANIFEST:
                raise BundleError(f"{manifest_file} is larger than {MAX_MANIFEST >> 20} MiB; do not use it")
            manifest = Manifest.from_json(manifest_file.read_bytes())
        except OSError as error:
            raise BundleError(f"{manifest_file} cannot be read ({error.strerror}); check its permissions") from error
        bundle = cls(path, manifest)
        for name, record in manifest.files.items():
            bundle._check_size(name, record.size)
        return bundle

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
        for name, record in self.manifest.files.items():
            with (self.path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != record.sha256:
                raise BundleError(
                    f"{self.path / name} was edited: its SHA-256 is {found[:12]}…, the manifest says "
                    f"{record.sha256[:12]}…; copy the bundle again"
                )
        listed = {*self.manifest.files, MANIFEST_FILE}
        present = (Path(root, name) for root, _, names in os.walk(self.path) for name in names)
        return sorted(name for p in present if (name := p.relative_to(self.path).as_posix()) not in listed)

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
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise BundleError(f"{path} was edited: its SHA-256 is not the manifest's; copy the bundle again")
        return content

    def network(self) -> Network:
        """The captured network, its weights memory-mapped. Raises ``BundleError`` where it is not listed or malformed."""
        from tt_edge.network.storage import NETWORK_FILE, WEIGHTS_FILE, read_network

        for name in (NETWORK_FILE, WEIGHTS_FILE):
            self.path_of(name)
        return read_network(self.path)
