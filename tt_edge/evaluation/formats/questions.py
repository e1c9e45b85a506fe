"""Questions of your own: JSON lines of ``messages``, ``prompt`` or ``audio``, and ``answer``, which must be matched letter for
letter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tt_edge import strict_json
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.formats.task import Task, first
from tt_edge.evaluation.requests import Answer, Ask, Generate, Item, Score
from tt_edge.runtime.audio import load_audio
from tt_edge.runtime.multimodal.sources import SizedImage, Video, VideoFile, images_of_row
from tt_edge.runtime.seq2seq.source import Speech

#: Answers longer than this count as wrong.
MAX_ANSWER = 64


class Questions(Task):
    """How many questions are answered exactly, and the perplexity of the right answers, given their questions."""

    name = "questions"
    marks = ("exact",)

    def __init__(self, path: Path, count: int | None = None, max_new_tokens: int | None = None) -> None:
        self._most = max_new_tokens
        self._items = read_questions(path, count)
        super().__init__([path, *_image_files(self._items)], {"count": count, "max_new_tokens": max_new_tokens})

    def items(self, model: Any) -> list[Item]:
        """Answers may take a quarter of the sequence, at most ``MAX_ANSWER`` tokens, unless their number is given."""
        room = self._most or min(MAX_ANSWER, max(1, model.llm.session.contract.max_seq_len // 4))
        return [
            Item(item.id, item.where, item.ask, item.answer, item.groups, Generate(room), Score(item.answer))
            for item in self._items
        ]

    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        return {"exact": answer.text == item.answer}


def read_questions(path: Path, count: int | None = None) -> list[Item]:
    """The first ``count`` questions of a JSONL file; ``kind`` makes groups.

    A line has ``messages``, ``prompt`` or ``audio``, and ``answer``. ``audio`` is a sound file in the JSONL file's folder, with
    ``language`` and ``task`` as in ``Speech``. Images are ``images``, files in that folder, or the messages' own.
    Raises ``InvalidInputError`` with the line that is of another form.
    """
    items: list[Item] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(items) == count:
                    break
                if line.strip():
                    items.append(_question(line, path, number))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"questions {path} cannot be read ({error}); give a JSONL file") from error
    if not items:
        raise InvalidInputError(f"{path} has no questions; give a JSONL file with messages or prompt, and answer")
    return first(items, count)


def _image_files(items: Sequence[Item]) -> Iterator[Path]:
    """The image files that ``items`` name, which answers depend on. Those that are missing are found when they are asked."""
    for source in (source for item in items for source in item.ask.images):
        image = source.image if isinstance(source, SizedImage) else source
        files = image.frames if isinstance(image, Video) else (image.file if isinstance(image, VideoFile) else image,)
        for file in files:
            if isinstance(file, str) and os.path.isfile(name := file.removeprefix("file://")):
                yield Path(name)


def _question(line: str, path: Path, number: int) -> Item:
    where = f"{path}:{number}"
    try:
        data = strict_json.loads(line)
        answer = data["answer"]
        if not isinstance(answer, str):
            raise TypeError("answer is not a string")
        images = images_of_row(data, path.parent)
        groups = (("kind", data["kind"]),) if isinstance(data.get("kind"), str) else ()
        if "messages" in data:
            ask = Ask(messages=tuple(dict(message) for message in data["messages"]), images=images)
        elif isinstance(data.get("audio"), str):
            asked = {name: data[name] for name in ("language", "task") if isinstance(data.get(name), str)}
            ask = Ask(speech=Speech(load_audio(path.parent / data["audio"]), **asked))
        else:
            prompt = data.get("prompt", "") if images else data["prompt"]  # a page of text is asked without one
            if not isinstance(prompt, str):
                raise TypeError("prompt is not a string")
            ask = Ask(prompt=prompt, images=images)
        return Item(str(number), where, ask, answer, groups)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{where} is not a question ({type(error).__name__}: {error}); give messages, prompt or audio, and answer"
        ) from error
