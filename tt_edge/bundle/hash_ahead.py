"""Hashing large files while this process does other work. Torch-free.

Reading a large tokenizer holds Python's lock for most of a second, and a thread that hashes needs it between any two pieces.
So a process of its own hashes, from the descriptors that this one has open: it is the same file, whatever its name
refers to by then.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from weakref import finalize

from tt_edge.folder import CheckedFile

_CHILD = Path(__file__).with_name("hash_child.py")
#: Starting a process takes as long as hashing this many bytes.
_WORTHWHILE = 64 << 20
_LINE = re.compile("[0-9a-f]{64}\n")


class HashingAhead:
    """The SHA-256 of files by name; a process computes them from now on. Thread-safe."""

    def __init__(self, files: Mapping[str, CheckedFile]) -> None:
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._found: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        if sum(file.size for file in files.values()) < _WORTHWHILE or not _is_python():
            return
        self._names = list(files)
        descriptors = [file.descriptor for file in files.values()]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_CHILD), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=descriptors,
                text=True,
            )
        except OSError:  # too many processes: the caller hashes them itself
            return
        finalize(self, _end, self._process)

    def sha256(self, name: str) -> str | None:
        """In hex, once it is known; ``None`` for a file that the process does not hash, or if it failed."""
        with self._lock:
            while self._process is not None and name in self._names:
                assert self._process.stdout is not None
                line = self._process.stdout.readline()
                if not _LINE.fullmatch(line):  # it ended, within a line even
                    self._names.clear()
                    break
                self._found[self._names.pop(0)] = line.strip()
            return self._found.get(name)


def _is_python() -> bool:
    """Whether ``sys.executable`` runs Python files: in a frozen or embedding program it is that program, or unknown."""
    return Path(sys.executable or "").name.startswith("python") and not hasattr(sys, "frozen")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
