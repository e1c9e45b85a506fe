"""From a text or speech to an encoded source and the beginning of its answer. Torch-free."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tt_edge.contract import INPUT_FEATURES, PAGE_PIXELS, SOURCE_IDS, SOURCE_LENGTHS
from tt_edge.errors import BundleError, CapacityError, InvalidInputError
from tt_edge.runtime.audio import LogMel
from tt_edge.runtime.multimodal.images import ImageFile
from tt_edge.runtime.seq2seq.page import PageProcessor
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.seq2seq.source import Source, Speech, digest_of
from tt_edge.runtime.text.tokenizer import read_json

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.contract import Feeds
    from tt_edge.runtime.engine.feed_forward import FeedForward


class SourcePipeline:
    """Encodes sources with ``encoder``, one at a time. ``start`` is what answers begin with; ``log_mel`` computes features of
    speech, and ``pages`` prepares pages. Thread-safe."""

    def __init__(
        self,
        encoder: FeedForward,
        start: DecoderStart,
        log_mel: LogMel | None = None,
        pages: PageProcessor | None = None,
    ) -> None:
        self.encoder, self.start, self.log_mel, self.pages = encoder, start, log_mel, pages
        self._input = encoder.contract.inputs[0]
        self._turn = threading.Lock()

    @classmethod
    def from_bundle(cls, bundle: Bundle, encoder: FeedForward) -> SourcePipeline:
        """Raises ``BundleError`` for settings that are missing, or do not fit the encoder."""
        start = DecoderStart.from_settings(read_json(bundle, "generation_config.json"))
        pipeline = cls(encoder, start)
        if pipeline.takes_speech and bundle.has("preprocessor_config.json"):
            log_mel = LogMel.from_settings(read_json(bundle, "preprocessor_config.json"))
            if (log_mel.mels, log_mel.frames) != pipeline._input.shape[1:]:
                raise BundleError(
                    f"preprocessor_config.json makes features {(log_mel.mels, log_mel.frames)}, and the encoder takes "
                    f"{pipeline._input.shape[1:]}; compile the model again"
                )
            pipeline.log_mel = log_mel
        if pipeline.takes_pages and bundle.has("preprocessor_config.json"):
            pages = PageProcessor.from_settings(read_json(bundle, "preprocessor_config.json"))
            if pages.size != pipeline._input.shape[2:]:
                raise BundleError(
                    f"preprocessor_config.json makes pages of {pages.size}, and the encoder takes {pipeline._input.shape[2:]}; "
                    "compile the model again"
                )
            pipeline.pages = pages
        return pipeline

    @property
    def takes_text(self) -> bool:
        return self._input.name == SOURCE_IDS

    @property
    def takes_speech(self) -> bool:
        return self._input.name == INPUT_FEATURES

    @property
    def takes_pages(self) -> bool:
        return self._input.name == PAGE_PIXELS

    @property
    def kind(self) -> str:
        """What the encoder takes, in words."""
        return "text" if self.takes_text else "speech" if self.takes_speech else "pages"

    def source(self, content: np.ndarray) -> Source:
        """Encode token ids ``[T]``, mel features ``[mels, frames]`` or pixels ``[3, H, W]``, whichever the encoder takes."""
        if self.takes_text:
            return self.text(content.tolist())
        wanted = self._input.resolve(batch=1)[1:]
        if content.shape != wanted:
            raise InvalidInputError(f"the source has shape {content.shape}; the encoder takes {wanted}")
        batch = np.ascontiguousarray(content[None], self._input.dtype.numpy)
        return self._encode({self._input.name: batch}, self.encoder.contract.max_source_len, digest_of(batch))

    def text(self, token_ids: Sequence[int]) -> Source:
        """Encode a text. Raises ``InvalidInputError`` for none, ``CapacityError`` for one that is too long."""
        if not self.takes_text:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {self.kind}, and there is a text; omit it"
            )
        limit = self.encoder.contract.max_source_len
        if not len(token_ids):
            raise InvalidInputError("the text has no tokens; give some text")
        if len(token_ids) > limit:
            raise CapacityError(
                f"the text has {len(token_ids)} tokens, more than the {limit} that the encoder was compiled for; shorten it, or "
                "compile with a larger --max-source-len"
            )
        ids = np.array([token_ids], np.int64)
        lengths = np.array([len(token_ids)], np.int32)
        return self._encode({SOURCE_IDS: ids, SOURCE_LENGTHS: lengths}, len(token_ids), digest_of(ids))

    @property
    def frames(self) -> int:
        """Frames of features of one window of speech."""
        return self._input.resolve(batch=1)[2]

    def speech(self, speech: Speech) -> Source:
        """Encode speech. Raises ``InvalidInputError`` for speech that is too long."""
        return self.source(self.speech_features().features(speech.audio))

    def features(self, speech: Speech) -> np.ndarray:
        """Log-mel features ``[mels, n]`` of speech of any length, of at least one window."""
        return self.speech_features().all_features(speech.audio)

    def speech_features(self) -> LogMel:
        """What computes features of speech. Raises ``InvalidInputError`` for a model that takes none."""
        if not self.takes_speech:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {self.kind}, and there is speech; omit it"
            )
        if self.log_mel is None:
            raise BundleError(
                "the bundle has no preprocessor_config.json, so it takes features only; compile the model again"
            )
        return self.log_mel

    def page(self, image: ImageFile) -> Source:
        """Encode a page: a file, or pixels. Raises ``InvalidInputError`` for what is no image."""
        return self.source(self.page_processor().prepare(image))

    def page_processor(self) -> PageProcessor:
        """What prepares pages. Raises ``InvalidInputError`` for a model that takes none."""
        if not self.takes_pages:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {self.kind}, and there is an image; omit it"
            )
        if self.pages is None:
            raise BundleError(
                "the bundle has no preprocessor_config.json, so it takes pixels only; compile the model again"
            )
        return self.pages

    def _encode(self, feeds: Feeds, length: int, digest: str) -> Source:
        names = {spec.name for spec in self.encoder.contract.inputs}
        if not names <= set(feeds):
            raise BundleError(
                f"the encoder needs an input {min(names - set(feeds))!r}, which this runtime does not give; update tt-edge"
            )
        with self._turn:
            cross = self.encoder.keep({name: feeds[name] for name in names})
        return Source(cross, length, digest)

    def close(self) -> None:
        self.encoder.close()
