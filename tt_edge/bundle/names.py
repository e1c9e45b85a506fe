"""Names of files that a manifest may list. Torch-free."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from tt_edge.errors import BundleError

MANIFEST_FILE = "manifest.json"
#: A signature of the manifest, if there is one.
SIGNATURE_FILE = "manifest.sig"
#: Most files of a bundle. Each is kept open; a process may have 1,024 by default, and a real bundle has about 15.
MAX_FILES = 512


def check_name(name: object) -> str:
    """``name`` if it is a plain relative path inside the bundle; raises ``BundleError`` for any other."""
    path = PurePosixPath(name) if isinstance(name, str) else None
    plain = path is not None and not path.is_absolute() and ".." not in path.parts and str(path) == name
    # Not printable: control characters, which a terminal obeys, and halves of surrogate pairs, which JSON can write.
    if not plain or "\\" in str(name) or not str(name).isprintable() or _same_file(str(name)) in _RESERVED:
        raise BundleError(f"the manifest lists the file {name!r}, which is not a path inside the bundle; do not use it")
    return str(name)


def check_names(names: Iterable[object]) -> None:
    """Raise ``BundleError`` unless all are such names, and name different files on every file system."""
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
    """Equal for names that a file system without cases, or that normalizes Unicode, takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


_RESERVED = {".", MANIFEST_FILE, SIGNATURE_FILE}
