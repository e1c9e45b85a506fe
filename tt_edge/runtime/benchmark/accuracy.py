"""How well a bundle answers questions, and how well it predicts text. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.preprocess import ImageSource, images_of_row
from tt_edge.runtime.multimodal.prompt_images import PromptImages, place_images
from tt_edge.runtime.text.chat_template import Message

#: Answers longer than this count as wrong.
MAX_ANSWER = 64


@dataclass(frozen=True)
class Question:
    """A conversation that ends with a question, or a plain prompt, and the answer that is right, letter for letter.

    ``images`` are in the order of their placeholders.
    """

    answer: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    images: tuple[ImageSource, ...] = ()

    def prompt_of(self, llm: LLM) -> str:
        return llm.apply_chat_template(list(self.messages)) if self.messages else self.prompt


@dataclass(frozen=True)
class Accuracy:
    """What came of the questions. ``perplexity`` is of the right answers, given their questions."""

    right: int
    asked: int
    perplexity: float

    @property
    def exact(self) -> float:
        """Part of the questions that were answered exactly."""
        return self.right / self.asked

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "exact": self.exact}


def read_questions(path: Path, count: int | None = None) -> list[Question]:
    """The first ``count`` questions of a JSONL file of ``messages`` or ``prompt``, and ``answer``.

    Pictures are ``images``, files from the JSONL file's folder on, or the messages' own.
    Raises ``InvalidInputError`` with the line that is of another form.
    """
    questions: list[Question] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(questions) == count:
                    break
                if line.strip():
                    questions.append(_question(line, f"{path}:{number}", path.parent))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"questions {path} cannot be read ({error}); give a JSONL file") from error
    if not questions:
        raise InvalidInputError(f"{path} has no questions; give a JSONL file with messages or prompt, and answer")
    return questions


def _question(line: str, where: str, folder: Path) -> Question:
    try:
        row = json.loads(line)
        answer = row["answer"]
        if not isinstance(answer, str):
            raise TypeError("answer is no string")
        images = images_of_row(row, folder)
        if "messages" in row:
            messages = tuple(dict(message) for message in row["messages"])
            return Question(answer, messages=messages, images=images)
        if not isinstance(row["prompt"], str):
            raise TypeError("prompt is no string")
        return Question(answer, prompt=row["prompt"], images=images)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{where} is no question ({type(error).__name__}: {error}); give messages or prompt, and answer"
        ) from error


def measure_accuracy(llm: LLM, questions: Sequence[Question]) -> Accuracy:
    """Ask the questions, greedily, and score the right answers."""
    chat = [bool(question.messages) for question in questions]
    config = GenerationConfig(max_new_tokens=_room(llm))
    right = 0
    for is_chat in sorted(set(chat)):
        asked = [question for question, its in zip(questions, chat, strict=True) if its is is_chat]
        prompts = [question.prompt_of(llm) for question in asked]
        images = [question.images for question in asked]
        found = llm.generate(prompts, config, add_special_tokens=not is_chat, images=images)
        right += sum(completion.text == q.answer for completion, q in zip(found, asked, strict=True))
    return Accuracy(right, len(questions), perplexity(llm, questions))


def perplexity(llm: LLM, questions: Sequence[Question]) -> float:
    """``exp`` of the mean negative log-likelihood of the right answers' tokens, each given all before it."""
    rows: list[_Row] = []
    for question in questions:
        prompt = llm.encode(question.prompt_of(llm), question.images, add_special_tokens=not question.messages)
        answer = llm.tokenizer.encode(question.answer, add_special_tokens=False)
        rows.append((list(prompt.ids), answer, prompt.images))
    rows.sort(key=lambda row: len(row[1]))  # rows of a batch end at about the same step
    batch, total, count = llm.session.contract.max_batch, 0.0, 0
    for first in range(0, len(rows), batch):
        losses = _answer_losses(llm, rows[first : first + batch])
        total += float(losses.sum())
        count += len(losses)
    llm.scheduler.forget()  # what its rows held is gone
    return float(np.exp(total / max(count, 1)))


#: Tokens of a prompt, of its answer, and its images.
_Row = tuple[list[int], list[int], PromptImages]


def _answer_losses(llm: LLM, rows: Sequence[_Row]) -> np.ndarray:
    """Negative log-likelihoods of all answers' tokens, teacher-forced: the prompts in pieces, then token by token."""
    session = llm.session
    losses: list[float] = []
    session.reset(len(rows))
    for row, (_, _, images) in enumerate(rows):
        if images.tokens:
            session.write_features(row, images.features)
    fed = [prompt + answer[:-1] for prompt, answer, _ in rows]
    done = np.zeros(len(rows), np.int64)
    while True:
        # A prompt without its last token goes in as widely as the engine takes it; from there on every logit counts.
        widths = [
            min(max(len(prompt) - 1 - at, 0) or int(at < len(ids)), session.contract.max_input_len)
            for (prompt, _, _), ids, at in zip(rows, fed, done.tolist(), strict=True)
        ]
        if not any(widths):
            return np.array(losses)
        width = max(widths)
        step = np.zeros((len(rows), width), np.int64)
        for row, size in enumerate(widths):
            step[row, :size] = fed[row][done[row] : done[row] + size]
        more: tuple[np.ndarray, ...] = ()
        if session.contract.takes_images:
            given = [(row, int(done[row]), widths[row], rows[row][2]) for row in range(len(rows))]
            more = place_images(session.contract, step.shape, given)
        logits = session.forward(step, np.array(widths), *more)
        done += widths
        for row, (prompt, answer, _) in enumerate(rows):
            at = done[row] - len(prompt)
            if widths[row] and 0 <= at < len(answer):
                losses.append(_negative_log_likelihood(logits[row], answer[at]))


def _negative_log_likelihood(logits: np.ndarray, token: int) -> float:
    wide = logits.astype(np.float64)
    top = wide.max()
    return float(top + np.log(np.exp(wide - top).sum()) - wide[token])


def _room(llm: LLM) -> int:
    return min(MAX_ANSWER, max(1, llm.session.contract.max_seq_len // 4))
