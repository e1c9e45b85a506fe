"""A bundle as a language model: text in, text out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tt_edge.config import GenerationConfig
from tt_edge.errors import BundleError
from tt_edge.runtime.chat_template import ChatTemplate, Message
from tt_edge.runtime.choose import open_session
from tt_edge.runtime.generation import Timing, generate
from tt_edge.runtime.session import Session
from tt_edge.runtime.streaming import StreamDecoder
from tt_edge.runtime.tokenizer import BundleTokenizer

#: Called with the prompt's index and each new piece of text.
OnText = Callable[[int, str], None]


@dataclasses.dataclass(frozen=True)
class Completion:
    """What followed one prompt. ``text`` leaves out special tokens, which ``new_token_ids`` holds."""

    prompt: str
    text: str
    input_ids: list[int]
    new_token_ids: list[int]
    finish_reason: str  # "eos" or "length"
    timing: Timing

    def to_dict(self) -> dict[str, Any]:
        return {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "timing": self.timing.to_dict()}


class LLM:
    """A session with its tokenizer and chat template; use it as a context manager to free device memory."""

    def __init__(self, session: Session, tokenizer: BundleTokenizer, chat_template: ChatTemplate | None = None) -> None:
        self.session = session
        self.tokenizer = tokenizer
        self.chat_template = chat_template

    @classmethod
    def load(cls, path: str | Path, runtime: str = "auto") -> LLM:
        """Open the bundle at ``path``; ``runtime`` is ``auto``, ``tensorrt`` or ``reference``."""
        from tt_edge.bundle import Bundle

        bundle = Bundle.open(path)
        tokenizer = BundleTokenizer.from_bundle(bundle)
        template = ChatTemplate.from_bundle(bundle, tokenizer.special_tokens)
        return cls(open_session(bundle, runtime), tokenizer, template)

    def apply_chat_template(self, messages: Sequence[Message], **variables: Any) -> str:
        """The prompt of a conversation, up to where the assistant speaks.

        Pass it to ``generate(…, add_special_tokens=False)``: it holds its special tokens already.
        """
        if self.chat_template is None:
            raise BundleError("the bundle has no chat template; compile from a chat model or pass plain prompts")
        return self.chat_template.render(messages, **variables)

    def generate(
        self,
        prompts: Sequence[str],
        config: GenerationConfig | None = None,
        on_text: OnText | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> list[Completion]:
        """Continue each prompt greedily.

        Without ``config.eos_token_ids`` a row ends with the bundle's own. ``on_text`` gets the text as it comes, in
        whole characters; a row's pieces join to its completion's ``text``.
        """
        config = config or GenerationConfig()
        if not config.eos_token_ids:
            config = dataclasses.replace(config, eos_token_ids=self.tokenizer.eos_token_ids)
        prompts_ids = [self.tokenizer.encode(p, add_special_tokens=add_special_tokens) for p in prompts]
        streams = [StreamDecoder(self.tokenizer) for _ in prompts]

        def on_token(row: int, token: int) -> None:
            if on_text is not None and (text := streams[row].push(token)):
                on_text(row, text)

        results = generate(self.session, prompts_ids, config, on_token if on_text else None)
        if on_text is not None:
            for row, stream in enumerate(streams):
                if rest := stream.flush():
                    on_text(row, rest)
        return [
            Completion(
                prompt=prompt,
                text=self.tokenizer.decode(result.new_token_ids),
                input_ids=result.input_ids,
                new_token_ids=result.new_token_ids,
                finish_reason=result.finish_reason,
                timing=result.timing,
            )
            for prompt, result in zip(prompts, results, strict=True)
        ]

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
