"""How well a bundle answers questions, and how well it predicts the right answers. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.prompt_images import PromptImages, place_images
from tt_edge.runtime.multimodal.sources import ImageSource, images_of_row
from tt_edge.runtime.text.chat import RenderedChat
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

    def prompt_of(self, llm: LLM) -> RenderedChat:
        """The prompt as ``llm`` is given it, with its images."""
        if not self.messages:
            return RenderedChat(self.prompt, self.images, add_special_tokens=True)
        return replace(llm.render_chat(self.messages), images=self.images)


@dataclass(frozen=True)
class Accuracy:
    """How many questions were answered right. ``perplexity`` is of the right answers, given their questions."""

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

    Images are ``images``, files relative to the JSONL file's folder, or the messages' own.
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
        data = json.loads(line)
        answer = data["answer"]
        if not isinstance(answer, str):
            raise TypeError("answer is not a string")
        images = images_of_row(data, folder)
        if "messages" in data:
            messages = tuple(dict(message) for message in data["messages"])
            return Question(answer, messages=messages, images=images)
        if not isinstance(data["prompt"], str):
            raise TypeError("prompt is not a string")
        return Question(answer, prompt=data["prompt"], images=images)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"{where} is not a question ({type(error).__name__}: {error}); give messages or prompt, and answer"
        ) from error


def measure_accuracy(llm: LLM, questions: Sequence[Question]) -> Accuracy:
    """Ask the questions, greedily, and score the right answers."""
    config = GenerationConfig(max_new_tokens=_room(llm))
    found = llm.generate([question.prompt_of(llm) for question in questions], config)
    right = sum(completion.text == q.answer for completion, q in zip(found, questions, strict=True))
    return Accuracy(right, len(questions), perplexity(llm, questions))


class _Scored(NamedTuple):
    """A question whose answer is scored: token ids of both, and the images."""

    prompt: list[int]
    answer: list[int]
    images: PromptImages


def perplexity(llm: LLM, questions: Sequence[Question]) -> float:
    """``exp`` of the mean negative log-likelihood of the right answers' tokens, each given all before it."""
    scored: list[_Scored] = []
    for question in questions:
        prompt = llm.encode(question.prompt_of(llm))
        answer = llm.tokenizer.encode(question.answer, add_special_tokens=False)
        scored.append(_Scored(list(prompt.ids), answer, prompt.images))
    scored.sort(key=lambda each: len(each.answer))  # the questions of a batch end at about the same step
    batch, total, count = llm.session.contract.max_batch, 0.0, 0
    for first in range(0, len(scored), batch):
        losses = _answer_losses(llm, scored[first : first + batch])
        total += float(losses.sum())
        count += len(losses)
    llm.scheduler.forget()  # its slots no longer hold what it knows of
    return float(np.exp(total / max(count, 1)))


def _answer_losses(llm: LLM, batch: Sequence[_Scored]) -> np.ndarray:
    """Negative log-likelihoods of all answers' tokens, teacher-forced: the prompts in pieces, then token by token."""
    session = llm.session
    losses: list[float] = []
    session.reset(len(batch))
    for slot, question in enumerate(batch):
        if question.images.tokens:
            session.write_features(slot, question.images.features)
    fed = [question.prompt + question.answer[:-1] for question in batch]
    done = np.zeros(len(batch), np.int64)
    while True:
        # A prompt without its last token goes in as widely as the engine takes it; from there on every logit counts.
        widths = [
            min(max(len(question.prompt) - 1 - at, 0) or int(at < len(ids)), session.contract.max_input_len)
            for question, ids, at in zip(batch, fed, done.tolist(), strict=True)
        ]
        if not any(widths):
            return np.array(losses)
        width = max(widths)
        step = np.zeros((len(batch), width), np.int64)
        for slot, size in enumerate(widths):
            step[slot, :size] = fed[slot][done[slot] : done[slot] + size]
        more: tuple[np.ndarray, ...] = ()
        if session.contract.takes_images:
            given = [(slot, int(done[slot]), widths[slot], batch[slot].images) for slot in range(len(batch))]
            more = place_images(session.contract, step.shape, given)
        logits = session.forward(step, np.array(widths), *more)
        done += widths
        for slot, question in enumerate(batch):
            at = done[slot] - len(question.prompt)
            if widths[slot] and 0 <= at < len(question.answer):
                losses.append(_negative_log_likelihood(logits[slot], question.answer[at]))


def _negative_log_likelihood(logits: np.ndarray, token: int) -> float:
    wide = logits.astype(np.float64)
    top = wide.max()
    return float(top + np.log(np.exp(wide - top).sum()) - wide[token])


def _room(llm: LLM) -> int:
    return min(MAX_ANSWER, max(1, llm.session.contract.max_seq_len // 4))
