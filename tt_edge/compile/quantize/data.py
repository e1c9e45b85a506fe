"""Text to calibrate on: of the user, or a small set that comes with tt-edge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tt_edge.compile.quantize.builtin_text import PASSAGES
from tt_edge.errors import InvalidInputError, MissingDependencyError

#: More than this of one file is not read.
_MAX_LINE = 1 << 20


@dataclass(frozen=True)
class CalibrationData:
    """What to calibrate on, how much of it, and where.

    ``source`` is a text file (a sample a paragraph), a JSONL file (``text``, ``prompt`` and ``answer``, or ``messages``
    of a chat), a folder that ``datasets`` saved, or ``None`` for the built-in passages. ``cache`` is a folder to keep
    results in.
    """

    source: Path | None = None
    samples: int = 64
    max_length: int = 256
    batch: int = 8
    device: str | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "max_length", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"calibration {name} is {getattr(self, name)}; give at least 1")
        if self.source is not None and not self.source.exists():
            raise InvalidInputError(
                f"calibration data {self.source} does not exist; give a .txt or .jsonl file, or a folder of `datasets`"
            )


def load_batches(data: CalibrationData, tokenizer: Any) -> list[Tensor]:
    """Token ids ``[B, S]`` int64, the same every time.

    Samples of equal length share a batch, so that no padding is calibrated on. Raises ``InvalidInputError`` for data
    without text.
    """
    ids: list[list[int]] = []
    for text in _texts(data.source, tokenizer):
        if len(ids) == data.samples:
            break
        tokens = tokenizer(text, add_special_tokens=True, truncation=True, max_length=data.max_length)["input_ids"]
        if tokens:
            ids.append(tokens)
    if not ids:
        raise InvalidInputError(
            f"calibration data {data.source} has no text; give a file with a sample a paragraph or line"
        )
    ids.sort(key=len)  # stable, so the order is the data's among equals
    batches: list[list[list[int]]] = []
    for tokens in ids:
        if batches and len(batches[-1]) < data.batch and len(batches[-1][0]) == len(tokens):
            batches[-1].append(tokens)
        else:
            batches.append([tokens])
    return [torch.tensor(batch, dtype=torch.int64) for batch in batches]


def _texts(source: Path | None, tokenizer: Any) -> Iterator[str]:
    if source is None:
        yield from PASSAGES
    elif source.is_dir():
        yield from _dataset(source, tokenizer)
    elif source.suffix in (".jsonl", ".json"):
        with source.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _sample(_parse(source, number, line), tokenizer, f"{source}:{number}")
    else:
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"calibration data {source} is not UTF-8 text ({error}); convert it") from error
        yield from (paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip())


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


def _sample(row: dict[str, Any], tokenizer: Any, where: str) -> str:
    """The text of one row, in whichever of the usual forms it has."""
    if isinstance(row.get("messages"), list):
        messages = list(row["messages"])
        if isinstance(row.get("answer"), str):
            messages.append({"role": "assistant", "content": row["answer"]})
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # Jinja's errors, and transformers' for a tokenizer without a template
            reason = str(error).splitlines()[0]
            raise InvalidInputError(
                f"{where}: its messages do not fit the chat template ({reason}); give text"
            ) from error
    for keys in (("text",), ("prompt", "answer"), ("prompt", "completion"), ("article",), ("content",)):
        if all(isinstance(row.get(key), str) for key in keys):
            return "\n".join(row[key] for key in keys)
    raise InvalidInputError(f"{where} has none of text, prompt and answer, or messages (it has {', '.join(row)})")


def _dataset(folder: Path, tokenizer: Any) -> Iterator[str]:
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
        yield _sample(row, tokenizer, f"{folder} row {number}")
