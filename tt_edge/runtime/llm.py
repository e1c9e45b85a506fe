"""A bundle as a language model: text in, text out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.choose import open_session, open_vision
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.multimodal.encoder import VisionEncoder
from tt_edge.runtime.multimodal.preprocess import ImageSource, images_of
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES
from tt_edge.runtime.scheduling.generation import Configs, one_each
from tt_edge.runtime.scheduling.prefix_cache import common_prefix
from tt_edge.runtime.scheduling.prefix_file import fingerprint, load_prefixes, save_prefixes
from tt_edge.runtime.scheduling.scheduler import Scheduler
from tt_edge.runtime.text.chat_template import ChatTemplate, Message
from tt_edge.runtime.text.completion import Completion, Delta, EncodedPrompt, TextRequest
from tt_edge.runtime.text.tokenizer import BundleTokenizer, read_json

#: Called with the prompt's index and each new piece of text.
OnText = Callable[[int, str], None]


class LLM:
    """A session with its tokenizer and chat template; use it as a context manager to free device memory.

    Keys and values stay in the cache between calls: a prompt that begins, token by token, like an earlier prompt and
    its answer is computed from where they part. Not thread-safe; ``AsyncLLM`` is.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: BundleTokenizer,
        chat_template: ChatTemplate | None = None,
        *,
        name: str = "model",
        generation_defaults: GenerationConfig | None = None,
        model_fingerprint: bytes = b"",
        vision: VisionEncoder | None = None,
    ) -> None:
        self.session = session
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        #: What encodes images, of a vision-language model.
        self.vision = vision
        self.name = name
        #: What the checkpoint recommends; for chats, not for ``generate``, which is greedy unless it is told otherwise.
        self.generation_defaults = generation_defaults or GenerationConfig()
        self.scheduler = Scheduler(session)
        self._fingerprint = model_fingerprint

    @classmethod
    def load(cls, path: str | Path, runtime: str = "auto", require_signature: str | Path | None = None) -> LLM:
        """Open the bundle at ``path``; ``runtime`` is ``auto``, ``tensorrt`` or ``reference``.

        ``require_signature`` is a file of public keys: see ``Bundle.open``.
        """
        from tt_edge.bundle import Bundle

        bundle = Bundle.open(path, require_signature)
        tokenizer = BundleTokenizer.from_bundle(bundle)
        template = ChatTemplate.from_bundle(bundle, tokenizer.special_tokens)
        name = Path(path).resolve().name.removesuffix(".ttedge")
        defaults = GenerationConfig.of_checkpoint(read_json(bundle, "generation_config.json"))
        with ExitStack() as opened:  # closed again where a later step fails
            session, vision = opened.enter_context(open_session(bundle, runtime)), None
            if bundle.manifest.vision is not None:
                tower = open_vision(bundle, runtime)
                opened.callback(tower.close)
                vision = VisionEncoder.from_bundle(bundle, tower, tokenizer)
            llm = cls(
                session,
                tokenizer,
                template,
                name=name,
                generation_defaults=defaults,
                model_fingerprint=fingerprint(bundle.manifest),
                vision=vision,
            )
            opened.pop_all()
        return llm

    def apply_chat_template(self, messages: Sequence[Message], **variables: Any) -> str:
        """The prompt of a conversation, up to where the assistant speaks.

        Pass it to ``generate(…, add_special_tokens=False)``: it holds its special tokens already.
        """
        if self.chat_template is None:
            raise BundleError("the bundle has no chat template; compile from a chat model or pass plain prompts")
        return self.chat_template.render([_as_templates_know_it(message) for message in messages], **variables)

    def with_defaults(self, config: GenerationConfig | None) -> GenerationConfig:
        """``config`` with the bundle's end-of-sequence ids, unless it has its own."""
        config = config or GenerationConfig()
        if config.eos_token_ids:
            return config
        return dataclasses.replace(config, eos_token_ids=self.tokenizer.eos_token_ids)

    def generate(
        self,
        prompts: Sequence[str],
        config: Configs | None = None,
        on_text: OnText | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[Sequence[ImageSource]] | None = None,
    ) -> list[Completion]:
        """Continue each prompt; ``config`` is one for all, or one for each; ``images`` are each prompt's, in the order of
        its placeholders.

        Without ``config.eos_token_ids`` a row ends with the bundle's own. ``on_text`` gets the text as it comes, in
        whole characters; a row's pieces join to its completion's ``text``.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        configs = [self.with_defaults(c) for c in one_each(config or GenerationConfig(), len(prompts))]
        pictures = [()] * len(prompts) if images is None else images
        requests = [
            self.text_request(prompt, c, _by_index(on_text, i), add_special_tokens=add_special_tokens, images=own)
            for i, (prompt, c, own) in enumerate(zip(prompts, configs, pictures, strict=True))
        ]
        for index, text_request in enumerate(requests):
            self.scheduler.check(text_request.request, f"prompt {index}")
        for text_request in requests:
            self.scheduler.submit(text_request.request)
        self.scheduler.run([text_request.request for text_request in requests])
        return [text_request.completion() for text_request in requests]

    def chat(
        self,
        messages: Sequence[Message],
        config: GenerationConfig | None = None,
        on_text: Callable[[str], None] | None = None,
        **variables: Any,
    ) -> Completion:
        """The assistant's answer to ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's."""
        prompt = self.apply_chat_template(messages, **variables)
        show = None if on_text is None else lambda _row, text: on_text(text)
        return self.generate([prompt], config, show, add_special_tokens=False, images=[images_of(messages)])[0]

    def stream(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[ImageSource] = (),
    ) -> Iterator[str]:
        """The continuation of ``prompt`` in pieces, as they come; closing the iterator ends the generation."""
        pieces: list[str] = []
        text_request = self.text_request(
            prompt,
            config,
            lambda delta: pieces.append(delta.text),
            add_special_tokens=add_special_tokens,
            images=images,
        )
        self.scheduler.submit(text_request.request)
        try:
            while not text_request.request.is_done:
                self.scheduler.step()
                yield from pieces
                pieces.clear()
            text_request.completion()  # raises its error
        finally:
            text_request.request.cancel()

    def text_request(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        on_delta: Callable[[Delta], None] | None = None,
        on_done: Callable[[], None] | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[ImageSource] = (),
    ) -> TextRequest:
        """What a scheduler takes, of ``prompt``.

        Raises ``InvalidInputError`` for images that the model or the prompt has no place for.
        """
        encoded = self.encode(prompt, images, add_special_tokens=add_special_tokens)
        return TextRequest(self.tokenizer, encoded, self.with_defaults(config), on_delta, on_done)

    def encode(
        self, prompt: str, images: Sequence[ImageSource] = (), *, add_special_tokens: bool = True
    ) -> EncodedPrompt:
        """Token ids of ``prompt``, and its images, encoded. Raises ``InvalidInputError`` as ``text_request`` does."""
        start = time.perf_counter()
        if self.vision is None:
            if images:
                raise InvalidInputError(
                    f"the bundle is of a language model, which takes no images, and there are {len(images)}; compile a "
                    "vision-language model"
                )
            return EncodedPrompt(prompt, self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens))
        ids, processed = self.vision.tokenize(self.tokenizer, prompt, images, add_special_tokens=add_special_tokens)
        found = self.vision.prompt_images(ids, processed) if processed else NO_IMAGES
        return EncodedPrompt(prompt, ids, found, start)

    def precompute(self, messages: Sequence[Message]) -> int:
        """Compute what every conversation that begins with ``messages`` begins with, and keep it; returns its tokens.

        Not for while something is being generated.
        """
        asked = [self.apply_chat_template([*messages, {"role": "user", "content": text}]) for text in ("a", "b")]
        one, other = (self.tokenizer.encode(prompt, add_special_tokens=False) for prompt in asked)
        length = common_prefix(one, other)
        self.scheduler.precompute(one[:length])
        return length

    def save_prefixes(self, path: str | os.PathLike[str]) -> None:
        """Write what ``precompute`` keeps to a file, for ``load_prefixes`` of a later process."""
        save_prefixes(self.scheduler.prefixes, Path(path), self._fingerprint)

    def load_prefixes(self, path: str | os.PathLike[str]) -> int:
        """Take up what ``save_prefixes`` wrote; returns how many prefixes. Raises ``BundleError`` for another model's."""
        found = load_prefixes(Path(path), self._fingerprint, self.session.contract)
        for prefix in found:
            self.scheduler.prefixes.add(prefix)
        return len(found)

    def close(self) -> None:
        self.session.close()
        if self.vision is not None:
            self.vision.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _as_templates_know_it(message: Message) -> Message:
    """With pictures in the form of Hugging Face's templates, where they are in OpenAI's."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list | tuple):
        return message
    parts = [{"type": "image"} if isinstance(p, Mapping) and p.get("type") == "image_url" else p for p in content]
    return {**message, "content": parts}


def _by_index(on_text: OnText | None, index: int) -> Callable[[Delta], None] | None:
    if on_text is None:
        return None

    def on_delta(delta: Delta) -> None:
        if delta.text:
            on_text(index, delta.text)

    return on_delta
