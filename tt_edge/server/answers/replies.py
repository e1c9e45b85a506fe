"""Bodies of answers, as OpenAI documents them: whole, or in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tt_edge.runtime.scheduling.request import FinishReason
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.text.completion import Completion
from tt_edge.runtime.text.detokenizer import IncrementalDecoder
from tt_edge.runtime.text.tokenizer import BundleTokenizer

Json = dict[str, Any]


def finish_reason(reason: FinishReason) -> str:
    """OpenAI's word: ``stop`` for an end that the model or a stop string made, else ``length``."""
    return "length" if reason is FinishReason.LENGTH else "stop"


def usage(completions: Sequence[Completion], n: int) -> Json:
    """Counts over all answers, ``n`` of which follow one prompt, which counts once."""
    prompts = completions[::n]
    prompt_tokens = sum(c.source_tokens or len(c.input_ids) for c in prompts)
    new_tokens = sum(len(c.new_token_ids) for c in completions)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(c.cached_tokens for c in prompts)},
    }


@dataclass
class ChatReply:
    """``chat.completion`` and ``chat.completion.chunk`` objects of one request.

    ``warnings`` are for the caller, such as that an image was scaled to fit; the field is there only if there are some.
    """

    model: str
    tokenizer: BundleTokenizer
    n: int = 1
    warnings: Sequence[str] = ()
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completions: Sequence[Completion]) -> Json:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": completion.text, "refusal": None},
                "logprobs": self._logprobs(completion.tokens),
                "finish_reason": finish_reason(completion.finish_reason),
            }
            for index, completion in enumerate(completions)
        ]
        head = {**self._head("chat.completion"), **self._warnings()}
        return {**head, "choices": choices, "usage": usage(completions, self.n)}

    def first(self, index: int) -> Json | None:
        chunk = self._chunk(index, {"role": "assistant", "content": ""}, (), None)
        return {**chunk, **self._warnings()} if index == 0 else chunk

    def piece(self, index: int, text: str, tokens: Sequence[Token]) -> Json:
        return self._chunk(index, {"content": text}, tokens, None)

    def last(self, index: int, completion: Completion) -> Json:
        return self._chunk(index, {}, (), finish_reason(completion.finish_reason))

    def usage(self, completions: Sequence[Completion]) -> Json:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(completions, self.n)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _warnings(self) -> Json:
        return {"warnings": list(self.warnings)} if self.warnings else {}

    def _chunk(self, index: int, delta: Json, tokens: Sequence[Token], finish: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": self._logprobs(tokens), "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _logprobs(self, tokens: Sequence[Token]) -> Json | None:
        if not any(token.logprob is not None for token in tokens):
            return None
        return {
            "content": [
                {
                    **self._entry(token.id, token.logprob or 0.0),
                    "top_logprobs": [self._entry(*pair) for pair in token.top],
                }
                for token in tokens
            ],
            "refusal": None,
        }

    def _entry(self, token: int, logprob: float) -> Json:
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": logprob, "bytes": list(self.tokenizer.token_bytes(token))}


@dataclass
class TextReply:
    """``text_completion`` objects of one request, whole or in chunks."""

    model: str
    tokenizer: BundleTokenizer
    n: int = 1
    echo: bool = False
    logprobs: int | None = None
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    prompts: list[str] = field(default_factory=list)  # one for each choice, for echo

    def whole(self, completions: Sequence[Completion]) -> Json:
        choices = [
            {
                "index": index,
                "text": self._echoed(index) + completion.text,
                "logprobs": self._logprobs(
                    completion.tokens, self._scored_prompt(completion), len(self._echoed(index))
                ),
                "finish_reason": finish_reason(completion.finish_reason),
            }
            for index, completion in enumerate(completions)
        ]
        return {**self._head(), "choices": choices, "usage": usage(completions, self.n)}

    def first(self, index: int) -> Json | None:
        return self.piece(index, self._echoed(index), ()) if self.echo else None

    def piece(self, index: int, text: str, tokens: Sequence[Token]) -> Json:
        return {**self._head(), "choices": [self._choice(index, text, tokens, None)]}

    def last(self, index: int, completion: Completion) -> Json:
        return {**self._head(), "choices": [self._choice(index, "", (), finish_reason(completion.finish_reason))]}

    def usage(self, completions: Sequence[Completion]) -> Json:
        return {**self._head(), "choices": [], "usage": usage(completions, self.n)}

    def _echoed(self, index: int) -> str:
        return self.prompts[index] if self.echo else ""

    def _head(self) -> Json:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}

    def _choice(self, index: int, text: str, tokens: Sequence[Token], finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": self._logprobs(tokens), "finish_reason": finish}

    def _scored_prompt(self, completion: Completion) -> list[Token]:
        """The prompt's tokens with their log-probabilities, of which the first has none; nothing unless it is echoed."""
        if not self.echo or not completion.prompt_tokens or self.logprobs is None:
            return []
        return [Token(completion.input_ids[0]), *completion.prompt_tokens]

    def _logprobs(self, tokens: Sequence[Token], prompt: Sequence[Token] = (), offset: int = 0) -> Json | None:
        """OpenAI's form: ``text_offset`` is each token's first character in the text, ``offset`` that of the answer."""
        if not any(token.logprob is not None for token in [*prompt, *tokens]):
            return None
        every = [*prompt, *tokens]
        return {
            "tokens": [self._text(token.id) for token in every],
            "token_logprobs": [token.logprob for token in every],
            "top_logprobs": [None if token.logprob is None else self._top(token) for token in every],
            "text_offset": [*self._offsets(prompt, 0), *self._offsets(tokens, offset)],
        }

    def _top(self, token: Token) -> dict[str, float]:
        """By text, as OpenAI has it: of tokens that read the same, such as parts of characters, the likeliest."""
        found: dict[str, float] = {}
        for other, logprob in token.top:
            found.setdefault(self._text(other), logprob)
        return found

    def _offsets(self, tokens: Sequence[Token], first: int) -> list[int]:
        decoder, offsets = IncrementalDecoder(self.tokenizer), []
        for token in tokens:
            offsets.append(first)
            first += len(decoder.push(token.id))
        return offsets

    def _text(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)
