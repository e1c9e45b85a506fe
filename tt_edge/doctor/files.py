"""Small text files of a system, read below a root that need not be ``/``."""

from __future__ import annotations

from pathlib import Path

#: Bytes that are read of any file: a package database has some megabytes.
_LIMIT = 64 << 20


def read_text(root: Path, name: str) -> str:
    """The text of ``name`` (relative to ``root``); "" where it is missing or cannot be read.

    NUL bytes, with which the kernel ends strings of the device tree, are removed.
    """
    try:
        with (root / name).open("rb") as file:
            return file.read(_LIMIT).decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return ""


def assignments(text: str) -> dict[str, str]:
    """``NAME="value"`` lines, as in ``os-release``. Of a name that is there several times, the last value."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            found[name.strip()] = value.strip().strip("\"'")
    return found
