"""Requests of text: from a scheduler's tokens to pieces of text, stop strings, and the completion."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES, PromptImages
from tt_edge.runtime.scheduling.request import FinishReason, Request, Timing
from tt_edge.runtime.scheduling.token import Token
from tt_edge.runtime.seq2seq.source import Source
from tt_edge.runtime.text.detokenizer import Detokenizer
from tt_edge.runtime.text.tokenizer import BundleTokenizer


@dataclass(frozen=True)
class Delta:
    """A piece of a completion: whole characters, and the tokens since the previous piece."""

    text: str
    tokens: list[Token]


@dataclass(frozen=True)
class Completion:
    """The continuation of one prompt. ``text`` is without special tokens and without the stop string, which are in
    ``new_token_ids``.

    ``cached_tokens`` of the prompt were reused from the cache. ``source_tokens`` are the places of an encoder-decoder's source
    (of a text, its tokens); ``input_ids`` are then what the answer began with. ``tokens`` have log-probabilities if they were
    asked for, and so have ``prompt_tokens``, the prompt's from its second on. ``notes`` are for the caller, such as that an image
    was scaled to fit.
    """

    prompt: str
    text: str
    input_ids: list[int]
    new_token_ids: list[int]
    finish_reason: FinishReason
    timing: Timing
    cached_tokens: int = 0
    source_tokens: int = 0
    stopped_by: str | None = None
    tokens: list[Token] = field(default_factory=list, repr=False)
    prompt_tokens: list[Token] = field(default_factory=list, repr=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if not self.source_tokens:
            del values["source_tokens"]  # a language model has no source
        lists = {name: values.pop(name) for name in ("tokens", "prompt_tokens")}
        scored = {
            name: [dataclasses.asdict(token) for token in tokens]
            for name, tokens in lists.items()
            if any(token.logprob is not None for token in tokens)
        }
        return {**values, "timing": self.timing.to_dict(), **scored}


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt ready for a scheduler: token ids, and its images or its source, encoded.

    For an encoder-decoder, ``text`` and ``source`` are what it answers to, and ``ids`` what its answer begins with.
    ``asked_at`` (``perf_counter``): when encoding began.

    Cached keys and values are reused only from prompts with the same ``cache_salt``.
    """

    text: str
    ids: Sequence[int]
    images: PromptImages = NO_IMAGES
    asked_at: float = field(default_factory=time.perf_counter)
    cache_salt: str = ""
    source: Source | None = None


class TextRequest:
    """A ``Request`` whose tokens become text. ``on_delta`` gets the pieces, which join to the completion's text.

    Both callbacks are called by whichever thread steps the scheduler, and must not block.
    """

    def __init__(
        self,
        tokenizer: BundleTokenizer,
        prompt: EncodedPrompt,
        config: GenerationConfig,
        on_delta: Callable[[Delta], None] | None = None,
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self.prompt = prompt.text
        self.request = Request(
            prompt.ids,
            config,
            self._on_token,
            self._on_done,
            prompt.images,
            cache_salt=prompt.cache_salt,
            asked_at=prompt.asked_at,
            source=prompt.source,
        )
        self._stream = Detokenizer(tokenizer, config.stop)
        self.on_delta, self._after = on_delta, on_done
        self._pieces: list[str] = []
        self._unsent: list[Token] = []

    def _on_token(self, token: Token) -> bool:
        self._unsent.append(token)
        self._send(self._stream.push(token.id))
        return self._stream.stopped_by is not None

    def _on_done(self) -> None:
        try:
            self._send(self._stream.flush(), last=True)
        finally:
            if self._after is not None:
                self._after()

    def _send(self, text: str, *, last: bool = False) -> None:
        self._pieces.append(text)
        if self.on_delta is not None and (text or (last and self._unsent)):
            tokens, self._unsent = self._unsent, []
            self.on_delta(Delta(text, tokens))

    def completion(self) -> Completion:
        """The completion, once the request is done. Raises the request's error, if it has one."""
        request = self.request
        if request.error is not None:
            raise request.error
        assert request.finish_reason is not None
        stopped_at_flush = self._stream.stopped_by is not None and request.finish_reason is not FinishReason.CANCELLED
        return Completion(
            prompt=self.prompt,
            text="".join(self._pieces),
            input_ids=list(request.prompt_ids),
            new_token_ids=[token.id for token in request.tokens],
            finish_reason=FinishReason.STOP if stopped_at_flush else request.finish_reason,
            timing=request.timing,
            cached_tokens=request.reused,
            source_tokens=0 if request.source is None else request.source.length,
            stopped_by=self._stream.stopped_by,
            tokens=request.tokens,
            prompt_tokens=request.prompt_tokens,
            notes=request.images.notes + (() if request.source is None else request.source.notes),
        )
