"""Reading files of calibration data, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tt_edge.errors import InvalidInputError, MissingDependencyError

#: Read no more than this from one file.
_MAX_LINE = 1 << 20
#: Suffixes of the files of a folder of images, and of a folder of recordings.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg"})


def files_of(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of ``folder`` with one of ``suffixes``, in order."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)


def is_of_rows(source: Path) -> bool:
    """Whether ``source`` is read by ``rows_of``: a JSONL file or a folder; another file is a text."""
    return source.is_dir() or source.suffix in (".jsonl", ".json")


def rows_of(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file, or of a folder that ``datasets`` saved, each with its file and line.

    Raises ``InvalidInputError`` for what is none.
    """
    if source.is_dir():
        yield from _dataset(source)
        return
    with source.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{source}:{number}", _parse(source, number, line)


def paragraphs_of(source: Path) -> list[str]:
    """The paragraphs of a text file. Raises ``InvalidInputError`` unless it is UTF-8."""
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"calibration data {source} is not UTF-8 text ({error}); convert it") from error
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _parse(source: Path, number: int, line: str) -> dict[str, Any]:
    try:
        if len(line) > _MAX_LINE:
            raise ValueError(f"it has {len(line):,} characters")
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise InvalidInputError(f"{source}:{number} is not a JSON object ({error}); fix or remove the line") from error
    return row


def _dataset(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} is read with the package datasets; pip install datasets, or give a .txt or .jsonl file"
        ) from error
    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"calibration data {folder} was not saved by `datasets` ({str(error).splitlines()[0]}); give such a folder"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    for number, row in enumerate(loaded):
        yield f"{folder} row {number}", row
