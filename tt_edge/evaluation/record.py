"""Answered items in a file that only grows, so that a run that was killed goes on where it ended."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.requests import Answer


def record_key(**parts: Any) -> str:
    """A key of everything that answers depend on: the model, the data, the settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Record:
    """Answers by item, in the JSON lines of ``path``; use it as a context manager.

    Each line has the key of its run: answers of another model, other data or other settings stay in the file and are not used.
    A line that a killed process left incomplete is asked again. One process at a time writes.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._key = key
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("ab+")
        except OSError as error:
            raise InvalidInputError(f"{path} cannot be written ({error}); give another --output") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InvalidInputError(f"another process writes to {path}; wait, or give another --output") from None
        self.answers = self._read()

    def _read(self) -> dict[str, Answer]:
        self._file.seek(0)
        found: dict[str, Answer] = {}
        line = b"\n"
        for line in self._file:
            try:
                data = json.loads(line)
                if data["key"] == self._key:
                    found[data["item"]] = Answer.from_dict(data["answer"])
            except (ValueError, TypeError, KeyError):  # incomplete: the process was killed
                continue
        if not line.endswith(b"\n"):
            self._write(b"\n")
        return found

    def add(self, item: str, answer: Answer, more: Mapping[str, Any]) -> None:
        """Append an answer; ``more`` is for readers of the file."""
        line = {"key": self._key, "item": item, "answer": answer.to_dict(), **more}
        self._write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.answers[item] = answer

    def _write(self, content: bytes) -> None:
        try:
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise InvalidInputError(f"{self.path} cannot be written ({error}); free space and run again") from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
