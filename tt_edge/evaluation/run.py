"""Running an evaluation: asks what the record does not have, and shows how far it is."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

import tt_edge
from tt_edge.errors import EngineError
from tt_edge.evaluation.formats.task import Task
from tt_edge.evaluation.record import Record, record_key
from tt_edge.evaluation.requests import Answer, Item, Model

#: Seconds between two lines of progress where standard error is no terminal.
LINE_SECONDS = 30.0


def evaluate(task: Task, model: Model, items: Sequence[Item], record: Path | None, label: str) -> dict[str, Any]:
    """The summary of ``task`` for ``model``: its ``items`` are asked, except those that the file ``record`` has.

    Raises ``CapacityError`` before anything is asked if an item does not fit, and ``InvalidInputError`` for a record that
    cannot be written.
    """
    if record is None:
        model.check(items)
        return task.summary(items, _ask(task, model, items, {}, label, None))
    key = record_key(
        model=model.key, data=task.digest, settings=task.settings, task=task.name, version=tt_edge.__version__
    )
    with Record(record, key) as kept:
        ids = {item.id for item in items}
        known = {name: answer for name, answer in kept.answers.items() if name in ids}
        left = [item for item in items if item.id not in known]
        model.check(left)
        return task.summary(items, _ask(task, model, items, known, label, kept))


def _ask(
    task: Task, model: Model, items: Sequence[Item], known: dict[str, Answer], label: str, record: Record | None
) -> dict[str, Answer]:
    answers = dict(known)
    left = [item for item in items if item.id not in answers]
    right = sum(_first_mark(task, item, answers[item.id]) for item in items if item.id in answers)
    with _progress(len(items), len(answers), label) as show:
        for item, answer in model.answers(left):
            if any(map(math.isnan, (answer.logprob, *answer.choices))):
                raise EngineError(
                    f"{item.where}: {label} computes NaN, so that no answer counts; run tt-edge verify, which names the cause"
                )
            if record is not None:
                marks = {"task": task.name, "model": label, "right": task.mark(item, answer)}
                record.add(item.id, answer, marks)
            answers[item.id] = answer
            right += _first_mark(task, item, answer)
            show.update(len(answers), f"{task.marks[0]} {right / len(answers):.1%}" if task.marks else "")
    return answers


def _first_mark(task: Task, item: Item, answer: Answer) -> bool:
    return bool(task.marks) and task.mark(item, answer)[task.marks[0]]


class _Progress(Protocol):
    def update(self, done: int, text: str) -> None: ...


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, done: int, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)


class _Lines:
    """A line every ``LINE_SECONDS``."""

    def __init__(self, total: int, label: str) -> None:
        self._total, self._label, self._last = total, label, time.monotonic()

    def update(self, done: int, text: str) -> None:
        if time.monotonic() - self._last < LINE_SECONDS:
            return
        self._last = time.monotonic()
        print(f"{self._label}: {done:,} of {self._total:,} {text}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def _progress(total: int, done: int, label: str) -> Iterator[_Progress]:
    """A bar on a terminal, and lines elsewhere."""
    if done:
        print(f"{label}: {done:,} of {total:,} answers are recorded already", file=sys.stderr)
    if not sys.stderr.isatty():
        yield _Lines(total, label)
        return
    with tqdm(total=total, initial=done, desc=label, file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
        yield _Bar(bar)
