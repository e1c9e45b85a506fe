"""The base of all data formats: items to ask, marks for the answers, and the numbers of a report."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.requests import Answer, Item

T = TypeVar("T")
#: Called with a text; how many tokens it has.
CountTokens = Callable[[str], int]


class Task(ABC):
    """A data set to evaluate on. ``name`` is that of ``tt-edge eval --task``."""

    name: str
    #: Names of the marks; the first is the running accuracy.
    marks: tuple[str, ...] = ()

    def __init__(self, files: Sequence[Path], settings: Mapping[str, Any]) -> None:
        self.files = list(files)
        #: What else the answers depend on; printed in reports.
        self.settings = dict(settings)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the data, as it is when this is first asked for."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()

    @abstractmethod
    def items(self, model: Any) -> list[Item]:
        """The items for ``model``, a ``BundleModel``, in the order in which they are asked."""

    @abstractmethod
    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        """Whether an answer is right, for each of ``marks``."""

    def numbers(self, items: Sequence[Item], answers: Mapping[str, Answer]) -> dict[str, Any]:
        """The numbers of a report: each mark's part of the items, and ``perplexity`` of scored continuations."""
        marks = [self.mark(item, answers[item.id]) for item in items]
        found: dict[str, Any] = {"asked": len(items)}
        if self.marks:
            found["right"] = sum(mark[self.marks[0]] for mark in marks)
        for name in self.marks:
            found[name] = sum(mark[name] for mark in marks) / max(len(marks), 1)
        if tokens := sum(answers[item.id].tokens for item in items):
            found["perplexity"] = exponential(-sum(answers[item.id].logprob for item in items) / tokens)
        return found

    def summary(self, items: Sequence[Item], answers: Mapping[str, Answer]) -> dict[str, Any]:
        """``numbers`` of all items, and of each group by level: ``{"groups": {level: {name: numbers}}}``."""
        found = self.numbers(items, answers)
        members: dict[str, dict[str, list[Item]]] = {}
        for item in items:
            for level, name in item.groups:
                members.setdefault(level, {}).setdefault(" ".join(name.split()), []).append(item)
        groups = {
            level: {name: self.numbers(its, answers) for name, its in sorted(names.items())}
            for level, names in members.items()
        }
        return found | ({"groups": groups} if groups else {})


def exponential(value: float) -> float:
    """``exp(value)``; infinity where a float has no room for it."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def first(items: list[T], count: int | None) -> list[T]:
    """The first ``count`` items."""
    return items if count is None else items[:count]


def read_text(path: Path, what: str) -> str:
    """A text file in UTF-8. Raises ``InvalidInputError`` for a file that is none."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read ({error}); give {what}") from error
