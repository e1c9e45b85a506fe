"""From what a caller gives an encoder-decoder to what its scheduler takes: an encoded source, and how the answer begins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.sources import ImageSource, SizedImage, Video, VideoFile, images_of
from tt_edge.runtime.scheduling.request import Request
from tt_edge.runtime.seq2seq.image_text import ImageTextProcessor
from tt_edge.runtime.seq2seq.prompt import DETECT
from tt_edge.runtime.seq2seq.source import Source, Speech
from tt_edge.runtime.text.chat import RenderedChat
from tt_edge.runtime.text.completion import EncodedPrompt

if TYPE_CHECKING:
    import numpy as np

    from tt_edge.runtime.multimodal.images import ImageFile
    from tt_edge.runtime.scheduling.scheduler import Scheduler
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
    from tt_edge.runtime.text.chat_template import Message
    from tt_edge.runtime.text.tokenizer import BundleTokenizer


def chat_of_page(messages: Sequence[Message]) -> RenderedChat:
    """A chat with a model that reads pages and has no chat template: one message of the user, with the page and what the answer
    begins with, if it has a text. Raises ``InvalidInputError`` for any other.
    """
    if len(messages) != 1 or messages[0].get("role") != "user":
        raise InvalidInputError(
            f"the model reads a page and has no chat template, and there are {len(messages)} messages; give one message of the "
            "user, with an image"
        )
    content = messages[0].get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    text = "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
    return RenderedChat(text, images_of(messages), add_special_tokens=True)  # there is no template that has them


class SourcePrompts:
    """Encodes prompts with ``pipeline``; ``scheduler`` runs the one step that detects a language. Thread-safe."""

    def __init__(self, pipeline: SourcePipeline, tokenizer: BundleTokenizer, scheduler: Scheduler) -> None:
        self.pipeline, self.tokenizer, self.scheduler = pipeline, tokenizer, scheduler

    def encode(
        self,
        prompt: str | Speech,
        images: Sequence[ImageSource],
        add_special_tokens: bool,
        cache_salt: str,
        asked_at: float,
    ) -> EncodedPrompt:
        """The source is the text, the speech, or the page in ``images``, whose reading begins with the text."""
        pipeline = self.pipeline
        if images and not pipeline.takes_pages:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {pipeline.kind}, and there are {len(images)} images; omit them"
            )
        text = ""
        if isinstance(prompt, Speech):
            source, start = pipeline.speech(prompt), self.start_of(prompt)
        elif pipeline.takes_pages:
            pixels = pipeline.page_processor().prepare(the_page(images))
            source, start = self._page(pixels, prompt, add_special_tokens=add_special_tokens)
            text = prompt
        else:
            ids = self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens) if pipeline.takes_text else []
            source, text, start = pipeline.text(ids), prompt, pipeline.start.default
        return self.answer_to(source, text, start, cache_salt, asked_at)

    def start_of(self, speech: Speech, *, timestamps: bool = False) -> Sequence[int]:
        """What the answer to ``speech`` begins with: the text before it, if there is one, language and task."""
        start = self.pipeline.start.asked(speech.language, speech.task, timestamps=timestamps)
        if not speech.prompt.strip():
            return start
        previous = self.pipeline.start.previous
        if previous is None:
            raise InvalidInputError("the model takes no text before speech; omit the prompt")
        before = self.tokenizer.encode(f" {speech.prompt.strip()}", add_special_tokens=False)
        added = self.tokenizer.backend.get_added_tokens_decoder()
        if (special := next((added[token] for token in before if token in added), None)) is not None:
            raise InvalidInputError(f"the prompt has the special token {special.content}; omit it")
        room = self.scheduler.session.contract.max_seq_len // 2 - 1
        return [previous, *before[-room:], *start]

    def answer_to(
        self, source: Source, text: str, start: Sequence[int], cache_salt: str, asked_at: float | None = None
    ) -> EncodedPrompt:
        """The prompt for an answer to ``source`` that begins with ``start``, whose language is detected if it is open."""
        salt = f"{cache_salt} {source.digest}"
        if DETECT in start:
            language = self._language_of(source, salt)
            start = [language if token == DETECT else token for token in start]
        asked_at = time.perf_counter() if asked_at is None else asked_at
        return EncodedPrompt(text, list(start), asked_at=asked_at, cache_salt=salt, source=source)

    def window(self, features: np.ndarray, start: Sequence[int], cache_salt: str) -> EncodedPrompt:
        """The prompt for an answer to a piece of speech: log-mel ``features`` ``[mels, frames]``."""
        return self.answer_to(self.pipeline.source(features), "", start, cache_salt)

    def page(self, pixels: np.ndarray, text: str, cache_salt: str) -> EncodedPrompt:
        """The prompt for reading a page that ``PageProcessor`` has prepared; the answer begins with ``text``, if there is one. Of a
        model that reads an image and a text, ``text`` is what is asked."""
        source, start = self._page(pixels, text)
        return self.answer_to(source, text, start, cache_salt)

    def _page(self, pixels: np.ndarray, text: str, *, add_special_tokens: bool = True) -> tuple[Source, Sequence[int]]:
        pipeline, processor = self.pipeline, self.pipeline.page_processor()
        if isinstance(processor, ImageTextProcessor):
            ids = self.tokenizer.encode(processor.text(text), add_special_tokens=add_special_tokens)
            processor.check_ids(ids)
            question = processor.question(text, add_special_tokens=add_special_tokens)
            return pipeline.image_text(pixels, ids, question), pipeline.start.default
        return pipeline.source(pixels), self._beginning(text)

    def _beginning(self, text: str) -> Sequence[int]:
        """Such as Donut's task ``<s_cord-v2>``, or the first words of a caption."""
        return self.pipeline.start.before(self.tokenizer.encode(text, add_special_tokens=False) if text else ())

    def _language_of(self, source: Source, salt: str) -> int:
        """The likeliest of the model's language tokens after the first token of an answer."""
        start = self.pipeline.start
        if not start.languages:
            raise BundleError("generation_config.json leaves the language open and has no lang_to_id; compile again")
        languages = set(start.languages.values())
        others = tuple(i for i in range(self.scheduler.session.contract.vocab_size) if i not in languages)
        config = GenerationConfig(max_new_tokens=1, suppress_tokens=others)
        request = Request([start.first], config, cache_salt=salt, source=source)
        self.scheduler.submit(request)
        self.scheduler.run([request])
        return request.tokens[0].id


def the_page(images: Sequence[ImageSource]) -> ImageFile:
    """The one image of a prompt. Raises ``InvalidInputError`` for none, several, and one whose size is asked for."""
    if any(isinstance(image, Video | VideoFile) for image in images):
        raise InvalidInputError("the model reads one page, and there is a video; give one image file")
    if len(images) != 1 or isinstance(images[0], Video | VideoFile | ProcessedImage):
        raise InvalidInputError(f"the model reads one page, and there are {len(images)} images; give one image file")
    if isinstance(images[0], SizedImage):
        raise InvalidInputError("the model reads pages in one size; omit detail, min_pixels, max_pixels and resized_*")
    return images[0]
