"""What is asked of a model, and what it answers: the common form of all evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tt_edge.runtime.llm import LLM
from tt_edge.runtime.multimodal.sources import ImageSource
from tt_edge.runtime.seq2seq.source import Speech
from tt_edge.runtime.text.chat import RenderedChat
from tt_edge.runtime.text.chat_template import Message


@dataclass(frozen=True)
class Ask:
    """A conversation that ends with a question, a plain prompt, token ids, or speech to write down.

    ``images`` are in the order of their placeholders; ``sound`` is the file of ``speech``.
    """

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    images: tuple[ImageSource, ...] = ()
    ids: tuple[int, ...] = ()
    speech: Speech | None = None
    sound: Path | None = None

    def prompt_of(self, llm: LLM) -> RenderedChat:
        """The prompt as ``llm`` is given it, with its images."""
        if not self.messages:
            return RenderedChat(self.prompt, self.images, add_special_tokens=True)
        return replace(llm.render_chat(self.messages), images=self.images)


@dataclass(frozen=True)
class Generate:
    """A greedy answer is asked for: at most ``max_new_tokens`` tokens, up to one of the ``stop`` strings."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """Log-probabilities are asked for: of the tokens of ``continuation``, each given all before it, and of the token that
    each of ``choices`` has behind the prompt."""

    continuation: str | tuple[int, ...] = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """One question.

    ``id`` is unique in its data, and ``where`` is the file and row, for errors. ``groups`` are the names of the groups that it
    counts for, by level, such as ``{"category": "STEM"}``.
    """

    id: str
    where: str
    ask: Ask
    answer: str = ""
    groups: tuple[tuple[str, str], ...] = ()
    generate: Generate | None = None
    score: Score | None = None
    #: What speech says, or a page: compared by edits, too.
    transcript: bool = False
    #: The options of a multiple-choice question, by letter.
    options: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether an answer is generated, and whether log-probabilities are asked for."""
        return self.generate is not None, self.score is not None


@dataclass(frozen=True)
class Answer:
    """What a model answered to an item.

    ``text`` where it generated; where it scored, ``logprob`` is the sum over the ``tokens`` of the continuation, ``greedy``
    whether each of them was the most likely one, and ``choices`` are the log-probabilities of the choices.
    """

    text: str | None = None
    logprob: float = 0.0
    tokens: int = 0
    greedy: bool = False
    choices: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        scored = {"logprob": self.logprob, "tokens": self.tokens, "greedy": self.greedy, "choices": list(self.choices)}
        text = {} if self.text is None else {"text": self.text}
        return text | (scored if self.tokens or self.choices else {})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Answer:
        return cls(**{**data, "choices": tuple(data.get("choices", ()))})


class Model(Protocol):
    """A bundle or a checkpoint in PyTorch that answers items."""

    @property
    def word(self) -> str:
        """How the answers are computed, for reports."""

    @property
    def key(self) -> str:
        """What tells this model's answers from another's, for the record."""

    def check(self, items: Sequence[Item]) -> None:
        """Raise ``CapacityError`` for the longest of ``items`` that does not fit; items with images are checked when asked."""

    def answers(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
        """Answer all ``items``; yields each when it is done, in any order."""
