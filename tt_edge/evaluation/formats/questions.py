"""Questions of your own: JSON lines of ``messages``, ``prompt`` or ``audio``, and ``answer``, which must be matched letter for
letter. Of what speech or a page says, blanks around it do not count, and the edits to the right answer are counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tt_edge import strict_json
from tt_edge.errors import InvalidInputError
from tt_edge.evaluation.edit_distance import error_rate
from tt_edge.evaluation.formats.task import Task, first
from tt_edge.evaluation.requests import Answer, Ask, Generate, Item, Score
from tt_edge.runtime.audio import load_audio
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.sources import SizedImage, Video, VideoFile, images_of_row
from tt_edge.runtime.seq2seq.source import Speech

#: Answers longer than this count as wrong.
MAX_ANSWER = 64


class Questions(Task):
    """How many questions are answered exactly, and the perplexity of the right answers, given their questions; of speech the word
    error rate, of pages the character error rate."""

    name = "questions"
    marks = ("exact",)

    def __init__(self, path: Path, count: int | None = None, max_new_tokens: int | None = None) -> None:
        self._most = max_new_tokens
        self._items = read_questions(path, count)
        files = [path, *_files(self._items)]
        super().__init__(files, {"count": count, "max_new_tokens": max_new_tokens})

    def items(self, model: Any) -> list[Item]:
        """Answers may take a quarter of the sequence, at most ``MAX_ANSWER`` tokens, and transcripts all of it, unless their number
        is given."""
        llm = model.llm
        most = llm.session.contract.max_seq_len
        reads = llm.source is not None and llm.source.takes_pages and not llm.source.takes_text
        found = []
        for item in self._items:
            transcript = item.ask.speech is not None or (reads and bool(item.ask.images))
            room = most - _begun(llm, item) if transcript and llm.source is not None else min(MAX_ANSWER, most // 4)
            generate, score = Generate(self._most or max(1, room)), Score(item.answer)
            found.append(replace(item, generate=generate, score=score, transcript=transcript))
        return found

    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        if item.transcript:
            return {"exact": (answer.text or "").strip() == item.answer.strip()}
        return {"exact": answer.text == item.answer}

    def numbers(self, items: Sequence[Item], answers: Mapping[str, Answer]) -> dict[str, Any]:
        """Beside those of every task, ``word_error_rate`` of speech and ``character_error_rate`` of pages, as they are written."""
        found = super().numbers(items, answers)
        pairs = [
            (item, (answers[item.id].text or "").strip(), item.answer.strip()) for item in items if item.transcript
        ]
        if spoken := [(text.split(), wanted.split()) for item, text, wanted in pairs if item.ask.speech is not None]:
            found["word_error_rate"] = error_rate(spoken)
        if read := [(text, wanted) for item, text, wanted in pairs if item.ask.speech is None]:
            found["character_error_rate"] = error_rate(read)
        return found


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


def _begun(llm: LLM, item: Item) -> int:
    """How many tokens a transcript begins with: language and task, or a page's prompt."""
    assert llm.source is not None
    start, speech = llm.source.start, item.ask.speech
    try:
        if speech is not None:
            return len(start.asked(speech.language, speech.task))
        return len(start.before(llm.tokenizer.encode(item.ask.prompt_of(llm).text, add_special_tokens=False)))
    except InvalidInputError as error:
        raise InvalidInputError(f"{item.where}: {error}") from error


def _files(items: Sequence[Item]) -> Iterator[Path]:
    """The sound and image files that ``items`` name, which answers depend on. A missing image is found when it is asked about."""
    yield from (item.ask.sound for item in items if item.ask.sound is not None)
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
        elif data.get("audio") is not None:
            asked = {name: data[name] for name in ("language", "task") if data.get(name) is not None}
            for name, value in {"audio": data["audio"], **asked}.items():
                if not isinstance(value, str):
                    raise TypeError(f"{name} is not a string")
            sound = path.parent / data["audio"]
            ask = Ask(speech=Speech(load_audio(sound), **asked), sound=sound)
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
