"""Checking the file names that a manifest lists. Torch-free."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from tt_edge.errors import BundleError

MANIFEST_FILE = "manifest.json"
#: The signature of the manifest (optional).
SIGNATURE_FILE = "manifest.sig"
#: Maximum number of files in a bundle. Each is kept open; a process may have 1,024 by default; real bundles have about 15.
MAX_FILES = 512


def check_name(name: object) -> str:
    """Return ``name`` if it is a plain relative path inside the bundle; raises ``BundleError`` for any other."""
    path = PurePosixPath(name) if isinstance(name, str) else None
    plain = path is not None and not path.is_absolute() and ".." not in path.parts and str(path) == name
    # Not printable: control characters, which terminals interpret, and lone surrogates, which JSON can express.
    if not plain or "\\" in str(name) or not str(name).isprintable() or _same_file(str(name)) in _RESERVED:
        raise BundleError(f"the manifest lists the file {name!r}, which is not a path inside the bundle; do not use it")
    return str(name)


def check_names(names: Iterable[object]) -> None:
    """Raise ``BundleError`` unless all are valid names of different files on every file system."""
    seen: dict[str, str] = {}
    for name in names:
        checked = check_name(name)
        if (other := seen.setdefault(_same_file(checked), checked)) != checked:
            raise BundleError(
                f"the manifest lists {other!r} and {checked!r}, which are one file on some systems; do not use the bundle"
            )
        if len(seen) > MAX_FILES:
            raise BundleError(f"the manifest lists more than {MAX_FILES} files; do not use the bundle")


def _same_file(name: str) -> str:
    """A key that is equal for names that denote one file on a case-insensitive or Unicode-normalizing file system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


_RESERVED = {".", MANIFEST_FILE, SIGNATURE_FILE}
