"""Every state of the disk that a kill -9 can leave.

Python announces each file operation before it does it (``sys.addaudithook``). What lies on the disk then is what a process
that is killed at that moment leaves, so a copy of the folder at each announcement is a complete list of such states.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree", "os.truncate"}
_watching: list[Callable[[], None]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watching:
        return
    writing = event in _WRITES
    if event == "open":
        flags = arguments[2]
        writing = bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if writing:
        watch = _watching.pop()  # the copying itself is not watched
        try:
            watch()
        finally:
            _watching.append(watch)


_installed: list[bool] = []


@contextmanager
def states(folder: Path, copies: Path) -> Iterator[list[Path]]:
    """Copies of ``folder`` before each file operation of the block, and one after it, under ``copies``.

    Nobody holds locks on the copies, as nobody does on what a killed process left.
    """
    if not _installed:  # hooks cannot be removed
        sys.addaudithook(_hook)
        _installed.append(True)
    found: list[Path] = []

    def copy() -> None:
        state = copies / f"{len(found):03}"
        shutil.copytree(folder, state, symlinks=True)
        found.append(state)

    _watching.append(copy)
    try:
        yield found
    finally:
        _watching.remove(copy)
    copy()
