"""A bundle as a language model: text in, text out."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from tt_edge.bundle.manifest import DECODER, ENCODER, VISION
from tt_edge.compat import Self
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.choose import files_to_run, open_part
from tt_edge.runtime.engine.session import Session
from tt_edge.runtime.multimodal.feature_cache import DEFAULT_BYTES
from tt_edge.runtime.multimodal.sources import ImageSource, images_of
from tt_edge.runtime.scheduling.admission import check_ids
from tt_edge.runtime.scheduling.generation import Configs, one_each
from tt_edge.runtime.scheduling.prefix_cache import common_prefix
from tt_edge.runtime.scheduling.prefix_file import fingerprint, load_prefixes, save_prefixes
from tt_edge.runtime.scheduling.scheduler import Scheduler
from tt_edge.runtime.seq2seq.source import Speech
from tt_edge.runtime.text.chat import RenderedChat, render_chat
from tt_edge.runtime.text.chat_template import ChatTemplate, Message
from tt_edge.runtime.text.completion import Completion, Delta, EncodedPrompt, TextRequest
from tt_edge.runtime.text.tokenizer import BundleTokenizer, read_json

if TYPE_CHECKING:  # imported where a bundle has images or sources: a language model starts without them
    from tt_edge.runtime.multimodal.pipeline import VisionPipeline
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
    from tt_edge.runtime.seq2seq.transcription import Transcript

#: Text, or a chat from ``LLM.render_chat``, or speech.
Prompt: TypeAlias = str | RenderedChat | Speech
#: Called with the prompt's index and each new piece of text.
OnText: TypeAlias = Callable[[int, str], None]


class LLM:
    """A session with its tokenizer and chat template; use it as a context manager to free device memory.

    Keys and values stay in the cache between calls: a prompt that begins, token by token, like an earlier prompt and
    its answer is computed from where they part. Thread-safe: the requests of several threads share the batch.
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
        vision: VisionPipeline | None = None,
        source: SourcePipeline | None = None,
    ) -> None:
        self.session = session
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        #: The processor and encoder of images, for a vision-language model.
        self.vision = vision
        #: The encoder of sources, for an encoder-decoder.
        self.source = source
        self.name = name
        #: What the checkpoint recommends; used wherever no ``GenerationConfig`` is given.
        self.generation_defaults = generation_defaults or GenerationConfig()
        self.scheduler = Scheduler(session)
        if source is not None:
            from tt_edge.runtime.seq2seq.prompts import SourcePrompts

            self.sources = SourcePrompts(source, tokenizer, self.scheduler)
        self._fingerprint = model_fingerprint

    @classmethod
    def load(
        cls,
        path: str | Path,
        runtime: str = "auto",
        require_signature: str | Path | None = None,
        *,
        image_cache_bytes: int = DEFAULT_BYTES,
    ) -> LLM:
        """Open the bundle at ``path``; ``runtime`` is ``auto``, ``tensorrt`` or ``reference``.

        ``require_signature`` is a file of public keys: see ``Bundle.open``. ``image_cache_bytes`` of host memory keep the features
        of recent images; 0 keeps none.
        """
        from tt_edge.bundle import Bundle

        bundle = Bundle.open(path, require_signature)
        bundle.hash_ahead(*files_to_run(bundle, runtime))  # while the tokenizer is read, which takes as long
        tokenizer = BundleTokenizer.from_bundle(bundle)
        template = ChatTemplate.from_bundle(bundle, tokenizer.special_tokens)
        name = Path(path).resolve().name.removesuffix(".ttedge")
        defaults = GenerationConfig.of_checkpoint(read_json(bundle, "generation_config.json"))
        with ExitStack() as opened:  # closed again where a later step fails
            session, vision, source = opened.enter_context(open_part(bundle, DECODER, runtime)), None, None
            if bundle.manifest.takes_images:
                from tt_edge.runtime.multimodal.pipeline import VisionPipeline

                tower = open_part(bundle, VISION, runtime)
                opened.callback(tower.close)
                vision = VisionPipeline.from_bundle(bundle, tower, tokenizer, cache_bytes=image_cache_bytes)
            if bundle.manifest.takes_source:
                from tt_edge.runtime.seq2seq.pipeline import SourcePipeline

                encoder = open_part(bundle, ENCODER, runtime)
                opened.callback(encoder.close)
                source = SourcePipeline.from_bundle(bundle, encoder)
            llm = cls(
                session,
                tokenizer,
                template,
                name=name,
                generation_defaults=defaults,
                model_fingerprint=fingerprint(bundle.manifest),
                vision=vision,
                source=source,
            )
            opened.pop_all()
        return llm

    def render_chat(self, messages: Sequence[Message], **variables: Any) -> RenderedChat:
        """The prompt of a conversation, up to where the assistant speaks, with its images; ``variables`` are the template's.

        A model that reads pages and has no chat template takes one message with an image. Raises ``BundleError`` for other models
        without a chat template, and ``InvalidInputError`` for messages that cannot be rendered.
        """
        if self.chat_template is None and self.source is not None and self.source.takes_pages and not variables:
            from tt_edge.runtime.seq2seq.prompts import chat_of_page

            return chat_of_page(messages)
        if self.chat_template is None:
            raise BundleError("the bundle has no chat template; compile from a chat model or pass plain prompts")
        if self.vision is None and self.source is None:
            _refuse_images(images_of(messages))  # before a template for texts fails on them
        return render_chat(self.chat_template, messages, has_processor=self.vision is not None, **variables)

    def apply_chat_template(self, messages: Sequence[Message], **variables: Any) -> str:
        """The text of ``render_chat``. To generate from it, pass what ``render_chat`` returns: it knows how to tokenize it."""
        return self.render_chat(messages, **variables).text

    def config(self, **changes: Any) -> GenerationConfig:
        """The checkpoint's recommended settings with ``changes``: fields of ``GenerationConfig``. ``temperature=0`` is greedy."""
        return dataclasses.replace(self.generation_defaults, **changes)

    def with_defaults(self, config: GenerationConfig | None) -> GenerationConfig:
        """``config``, or the checkpoint's recommended settings; with the bundle's end-of-sequence ids, unless it has its own."""
        config = config or self.generation_defaults
        if config.eos_token_ids:
            return config
        return dataclasses.replace(config, eos_token_ids=self.tokenizer.eos_token_ids)

    def generate(
        self,
        prompts: Sequence[Prompt],
        config: Configs | None = None,
        on_text: OnText | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[Sequence[ImageSource]] | None = None,
    ) -> list[Completion]:
        """Continue each prompt: text, or a chat from ``render_chat``.

        ``config`` is one for all, or one for each, and complete: what it does not set is off. Without it, the checkpoint's
        recommended settings hold, as everywhere (``self.config(max_new_tokens=…)`` changes some of them). Without
        ``config.eos_token_ids`` the bundle's own end a continuation.
        ``images`` are those of each text, in the order of its placeholders. ``on_text`` gets the text as it comes, in
        whole characters; the pieces of a prompt join to its completion's ``text``.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        configs = one_each(config or self.generation_defaults, len(prompts))
        given = [()] * len(prompts) if images is None else images
        requests = [
            self.text_request(prompt, its_config, add_special_tokens=add_special_tokens, images=its_images)
            for prompt, its_config, its_images in zip(prompts, configs, given, strict=True)
        ]
        if any(text_request.request.config.num_beams > 1 for text_request in requests):
            return [self._searched(text_request, index, on_text) for index, text_request in enumerate(requests)]
        for index, text_request in enumerate(requests):
            self.scheduler.check(text_request.request, f"prompt {index}")
        for deltas in self.run(requests):
            for index, delta in deltas:
                if on_text is not None and delta.text:
                    on_text(index, delta.text)
        return [text_request.completion() for text_request in requests]

    def _searched(self, text_request: TextRequest, index: int, on_text: OnText | None) -> Completion:
        """The completion by beam search, whose text comes all at once."""
        self.scheduler.search(text_request.request)
        completion = text_request.completion()
        if on_text is not None and completion.text:
            on_text(index, completion.text)
        return completion

    def chat(
        self,
        messages: Sequence[Message],
        config: GenerationConfig | None = None,
        on_text: Callable[[str], None] | None = None,
        **variables: Any,
    ) -> Completion:
        """The assistant's answer to ``messages``, dicts with ``role`` and ``content``; ``variables`` are the template's."""
        show = None if on_text is None else lambda _index, text: on_text(text)
        return self.generate([self.render_chat(messages, **variables)], config, show)[0]

    def transcribe(
        self, speech: Speech, config: GenerationConfig | None = None, *, timestamps: bool | None = None
    ) -> Transcript:
        """Write ``speech`` down as Whisper's ``generate()`` does; ``config`` is that of each answer, ``windows`` has the rest.

        Raises ``InvalidInputError`` for a model that takes no speech.
        """
        if self.source is None:
            raise InvalidInputError("the bundle is of a language model, which takes no speech; compile a speech model")
        from tt_edge.runtime.seq2seq.transcription import answered, windows

        features, config = self.source.features(speech), self.with_defaults(config)
        asked = windows(self.sources, features, speech.audio.seconds, speech, config, timestamps=timestamps)
        return answered(asked, self._answer)

    def _answer(self, prompt: EncodedPrompt, config: GenerationConfig) -> Completion:
        request = self.text_request(prompt, config)
        if config.num_beams > 1:
            return self._searched(request, 0, None)
        for _ in self.run([request]):
            pass
        return request.completion()

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[ImageSource] = (),
    ) -> Iterator[str]:
        """The continuation of ``prompt`` in pieces, as they come; closing the iterator ends the generation."""
        request = self.text_request(prompt, config, add_special_tokens=add_special_tokens, images=images)
        for deltas in self.run([request]):
            yield from (delta.text for _, delta in deltas)

    def run(self, requests: Sequence[TextRequest]) -> Iterator[list[tuple[int, Delta]]]:
        """Run ``requests`` together. Yields after every step the pieces that it gave, each with its request's index.

        Leaving the iterator cancels the requests. Raises the first one's error when all are done.
        """
        pieces: deque[tuple[int, Delta]] = deque()  # filled by whichever thread steps, emptied by this one
        for index, text_request in enumerate(requests):
            text_request.on_delta = partial(_keep, pieces, index)
        inner = [text_request.request for text_request in requests]
        self.scheduler.submit(*inner)
        for _ in self.scheduler.steps_for(inner):
            yield [pieces.popleft() for _ in range(len(pieces))]
        yield list(pieces)
        for text_request in requests:
            text_request.completion()  # raises its error

    def text_request(
        self,
        prompt: Prompt | EncodedPrompt,
        config: GenerationConfig | None = None,
        on_delta: Callable[[Delta], None] | None = None,
        on_done: Callable[[], None] | None = None,
        *,
        add_special_tokens: bool = True,
        images: Sequence[ImageSource] = (),
    ) -> TextRequest:
        """Build the scheduler request for ``prompt``. Raises what ``encode`` raises."""
        if not isinstance(prompt, EncodedPrompt):
            prompt = self.encode(prompt, images, add_special_tokens=add_special_tokens)
        return TextRequest(self.tokenizer, prompt, self.with_defaults(config), on_delta, on_done)

    def encode(
        self,
        prompt: Prompt,
        images: Sequence[ImageSource] = (),
        *,
        add_special_tokens: bool = True,
        cache_salt: str = "",
    ) -> EncodedPrompt:
        """Token ids of ``prompt``, and its images, encoded. A chat from ``render_chat`` brings its own images and settings.

        Cached keys and values are reused only from prompts with the same ``cache_salt``. Raises ``InvalidInputError`` for
        images that the model or the prompt has no place for. Thread-safe.
        """
        start = time.perf_counter()
        if isinstance(prompt, RenderedChat):
            images, add_special_tokens, prompt = prompt.images, prompt.add_special_tokens, prompt.text
        if self.source is not None:
            return self.sources.encode(prompt, images, add_special_tokens, cache_salt, start)
        if isinstance(prompt, Speech):
            raise InvalidInputError("the bundle is of a language model, which takes no speech; compile a speech model")
        if self.vision is None:
            _refuse_images(images)
            ids = self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
            return EncodedPrompt(prompt, ids, asked_at=start, cache_salt=cache_salt)
        ids, processed = self.vision.processor.tokenize(
            self.tokenizer, prompt, images, add_special_tokens=add_special_tokens
        )
        if not processed:
            return EncodedPrompt(prompt, ids, asked_at=start, cache_salt=cache_salt)
        found = self.vision.prompt_images(ids, processed, cache_salt)
        return EncodedPrompt(prompt, ids, found, start, cache_salt)

    def encoded_ids(self, token_ids: Sequence[int], cache_salt: str = "") -> EncodedPrompt:
        """A prompt of token ids. Raises ``InvalidInputError`` for an id outside the vocabulary, and for that of an image."""
        check_ids("the prompt", token_ids, self.session.contract.vocab_size)
        if self.vision is not None:
            self.vision.processor.check_ids(token_ids)
        if self.source is not None:
            source, text = self.source.text(token_ids), self.tokenizer.decode(token_ids)
            return self.sources.answer_to(source, text, self.source.start.default, cache_salt)
        return EncodedPrompt(self.tokenizer.decode(token_ids), token_ids, cache_salt=cache_salt)

    def precompute(self, messages: Sequence[Message]) -> int:
        """Compute the common beginning of all conversations that begin with ``messages``, and keep it; returns its tokens.

        Raises ``EngineError`` while all slots of the batch are generating, and ``InvalidInputError`` for an
        encoder-decoder.
        """
        if self.source is not None:
            raise InvalidInputError("an encoder-decoder has no common beginnings: each answer has a source of its own")
        asked = [self.render_chat([*messages, {"role": "user", "content": text}]) for text in ("a", "b")]
        one, other = (self.encode(chat).ids for chat in asked)
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
        """End what is running and free memory. Closing twice is harmless."""
        self.scheduler.close()
        self.session.close()
        self.tokenizer.close()
        if self.vision is not None:
            self.vision.close()
        if self.source is not None:
            self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _refuse_images(images: Sequence[ImageSource]) -> None:
    if images:
        raise InvalidInputError(
            f"the bundle is of a language model, which takes no images, and there are {len(images)}; compile a "
            "vision-language model"
        )


def _keep(pieces: deque[tuple[int, Delta]], index: int, delta: Delta) -> None:
    pieces.append((index, delta))
