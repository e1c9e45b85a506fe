"""Perplexity of a text file in windows, by the rule of lm-eval's ``loglikelihood_rolling``.

The text is tokenized as a whole, without special tokens. Every token is predicted once. The first window begins with the
beginning-of-sequence token (without one, the end-of-sequence token); each later one predicts as many tokens as fit behind
``context`` tokens of the text that come before them, and the last one sees as much text as fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.evaluation.formats.task import Task, exponential, first, read_text
from tt_edge.evaluation.requests import Answer, Ask, Item, Score

#: A window: the tokens before, and the tokens that are predicted.
Window = tuple[list[int], list[int]]


class Perplexity(Task):
    """``window`` tokens (default: what the bundle takes) of the text in ``path``, of which ``context`` are only read."""

    name = "perplexity"

    def __init__(self, path: Path, count: int | None = None, window: int | None = None, context: int = 1) -> None:
        super().__init__([path], {"window": window, "context": context, "count": count})
        self._path, self._count, self._window, self._context = path, count, window, context
        self._text = read_text(path, "a text file in UTF-8")
        if not self._text:
            raise InvalidInputError(f"{path} is empty; give a text file in UTF-8")
        self._sizes: tuple[int, int] = (0, 0)

    def items(self, model: Any) -> list[Item]:
        """One item per window."""
        llm = model.llm
        limit = llm.session.contract.max_seq_len
        window = self._window or limit
        if window > limit:
            raise CapacityError(
                f"--window is {window}, more than max_seq_len {limit}; compile with --max-seq-len {window}"
            )
        if not 1 <= self._context <= window:
            raise InvalidInputError(f"--context is {self._context}; give 1 to {window}, the tokens of a window")
        ids = llm.tokenizer.encode(self._text, add_special_tokens=False)
        if not ids:
            raise InvalidInputError(f"{self._path} has no tokens for this model's tokenizer; give another text")
        windows = first(list(rolling_windows(ids, prefix_token(llm.tokenizer), window, self._context)), self._count)
        predicted = sum(len(targets) for _, targets in windows)
        text = self._text if predicted == len(ids) else llm.tokenizer.decode(ids[:predicted], skip_special_tokens=False)
        self._sizes = len(re.split(r"\s+", text)), len(text.encode())
        return [
            Item(str(number), f"{self._path} window {number}", Ask(ids=tuple(before)), score=Score(tuple(targets)))
            for number, (before, targets) in enumerate(windows)
        ]

    def mark(self, item: Item, answer: Answer) -> dict[str, bool]:
        return {}

    def numbers(self, items: Sequence[Item], answers: Mapping[str, Answer]) -> dict[str, Any]:
        """``word_perplexity`` and ``byte_perplexity`` do not depend on the tokenizer; lm-eval's ``wikitext`` counts words so."""
        total = -sum(answers[item.id].logprob for item in items)
        tokens, (words, size) = sum(answers[item.id].tokens for item in items), self._sizes
        return {
            "asked": len(items),
            "tokens": tokens,
            "perplexity": exponential(total / tokens),
            "word_perplexity": exponential(total / words),
            "byte_perplexity": exponential(total / size),
            "bits_per_byte": total / size / log(2),
        }


def prefix_token(tokenizer: Any) -> int:
    """The token that the first of a text is predicted from. Raises ``InvalidInputError`` for a tokenizer without one."""
    name = tokenizer.special_tokens.get("bos_token", tokenizer.special_tokens.get("eos_token"))
    found = None if name is None else tokenizer.backend.token_to_id(name)
    if found is None and tokenizer.eos_token_ids:
        found = tokenizer.eos_token_ids[0]
    if found is None:
        raise InvalidInputError(
            "the tokenizer has no beginning or end token to predict the first token from; set bos_token in tokenizer_config.json"
        )
    return int(found)


def rolling_windows(ids: Sequence[int], prefix: int, window: int, context: int) -> Iterator[Window]:
    """Windows over ``ids``: tokens before, and targets. ``window`` tokens are fed for each, the last target not among them."""
    done = min(window, len(ids))
    if done:
        yield [prefix], list(ids[:done])
    while done < len(ids):
        end = min(done + window - context + 1, len(ids))
        yield list(ids[end - window - 1 : done]), list(ids[done:end])
        done = end
