"""From a text or speech to an encoded source and the beginning of its answer. Torch-free."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tt_edge.contract import (
    INPUT_FEATURES,
    PAGE_PIXELS,
    QUESTION_IDS,
    SOURCE_IDS,
    SOURCE_LENGTHS,
    SPEECH_FEATURES,
    SPEECH_SAMPLES,
)
from tt_edge.contract.symbols import FRAMES
from tt_edge.errors import BundleError, CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.audio.extractors import SpeechFeatures, extractor_of
from tt_edge.runtime.multimodal.images import ImageFile
from tt_edge.runtime.seq2seq.image_text import ImageTextProcessor
from tt_edge.runtime.seq2seq.page import PageProcessor
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.seq2seq.source import Source, Speech, digest_of
from tt_edge.runtime.text.tokenizer import Files, read_json

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.contract import Feeds, TensorSpec
    from tt_edge.runtime.engine.feed_forward import FeedForward


class SourcePipeline:
    """Encodes sources with ``encoder``, one at a time. ``start`` is what answers begin with; ``extractor`` computes features
    of speech, and ``pages`` prepares pages. Thread-safe."""

    def __init__(
        self,
        encoder: FeedForward,
        start: DecoderStart,
        extractor: SpeechFeatures | None = None,
        pages: PageProcessor | ImageTextProcessor | None = None,
    ) -> None:
        self.encoder, self.start, self.extractor, self.pages = encoder, start, extractor, pages
        self._input = encoder.contract.inputs[0]
        self._without_extractor = (
            "the bundle has no preprocessor_config.json, so it takes features only; compile the model again"
        )
        self._without_pages = (
            "the bundle has no preprocessor_config.json, so it takes pixels only; compile the model again"
        )
        self._turn = threading.Lock()

    @classmethod
    def from_bundle(cls, bundle: Bundle, encoder: FeedForward) -> SourcePipeline:
        """Raises ``BundleError`` for settings that are missing, or do not fit the encoder."""
        start = DecoderStart.from_settings(read_json(bundle, "generation_config.json"))
        pipeline = cls(encoder, start)
        if pipeline.takes_speech:
            pipeline._add_extractor(settings_of(bundle, "feature_extractor"))
        if pipeline.takes_pages:
            pipeline._add_pages(bundle)
        return pipeline

    def _add_pages(self, bundle: Bundle) -> None:
        settings = settings_of(bundle, "image_processor")
        if not settings:
            return
        pixels = self.encoder.contract.input(PAGE_PIXELS)
        try:
            if self.takes_text:
                _, _, height, width = pixels.resolve()
                model = read_json(bundle, "config.json")
                both = ImageTextProcessor.from_settings(settings, model, (height, width), self.image_places)
                self.pages = both.reading(bundle, self.encoder.contract.max_source_len) if self._asks else both
                return
            pages = PageProcessor.from_settings(settings)
        except UnsupportedModelError as error:  # it takes pixels
            self._without_pages = str(error)
            return
        if pages.size != pixels.shape[2:]:
            raise BundleError(
                f"preprocessor_config.json makes pages of {pages.size}, and the encoder takes {pixels.shape[2:]}; compile the "
                "model again"
            )
        self.pages = pages

    def _add_extractor(self, settings: Mapping[str, Any]) -> None:
        if not settings:
            return
        try:
            extractor = extractor_of(settings, any_length=self._input.name != INPUT_FEATURES)
        except UnsupportedModelError as error:  # it takes features
            self._without_extractor = str(error)
            return
        wanted, made = self._input.shape[1:], tuple(FRAMES.name if size is None else size for size in extractor.shape)
        if made != wanted:
            raise BundleError(
                f"preprocessor_config.json makes features {_words(made)}, and the encoder takes {_words(wanted)}; compile the "
                "model again"
            )
        self.extractor = extractor

    @property
    def takes_text(self) -> bool:
        return self._input.name == SOURCE_IDS

    @property
    def takes_speech(self) -> bool:
        return self._input.name in (INPUT_FEATURES, SPEECH_FEATURES, SPEECH_SAMPLES)

    @property
    def takes_pages(self) -> bool:
        return any(spec.name == PAGE_PIXELS for spec in self.encoder.contract.inputs)

    @property
    def _asks(self) -> bool:
        """Whether features of an image depend on the text."""
        return any(spec.name == QUESTION_IDS for spec in self.encoder.contract.inputs)

    @property
    def image_places(self) -> int:
        """The places of an image, which stands before the text."""
        return self.encoder.contract.limits.max_image_tokens or 0

    @property
    def has_one_size(self) -> bool:
        """Whether every source has as many places as any other."""
        return not self.takes_text and self.encoder.contract.subsampling is None

    def shape_of(self, places: int) -> tuple[int, ...]:
        """The shape of what ``source`` takes, for a source of ``places``, or of the one size that there is."""
        of = self.encoder.contract.subsampling
        if self.takes_text:
            return (places,)
        return self._input.resolve(batch=1, frames=1 if of is None else of.fewest(max(2, places)))[1:]

    @property
    def kind(self) -> str:
        """What the encoder takes, in words."""
        if self.takes_text and self.takes_pages:
            return "an image and a text"
        return "text" if self.takes_text else "speech" if self.takes_speech else "pages"

    def source(self, content: np.ndarray) -> Source:
        """Encode token ids ``[T]``, mel features ``[mels, frames]``, pixels ``[3, H, W]``, or speech of any length (features
        ``[frames, width]`` or samples ``[n]``), whichever the encoder takes.

        Raises ``InvalidInputError`` for another shape, speech that is too short, and numbers that are not finite;
        ``CapacityError`` for speech that is too long.
        """
        if self.takes_text:
            return self.text(content.tolist())
        spec, contract = self._input, self.encoder.contract
        wanted = spec.shape[1:]
        fits = (size in (have, FRAMES.name) for have, size in zip(content.shape, wanted, strict=False))
        if content.ndim != len(wanted) or not all(fits):
            raise InvalidInputError(f"the source has shape {content.shape}; the encoder takes {_words(wanted)}")
        places = contract.max_source_len if contract.subsampling is None else self._places(len(content))
        batch = _batch_of(content, spec)
        return self._encode({spec.name: batch}, places, digest_of(batch))

    def _places(self, length: int) -> int:
        """Places of speech of any length. There is no padding."""
        of = self.encoder.contract.subsampling
        assert of is not None
        most = of.fewest(self.encoder.contract.max_source_len)
        unit = "samples" if self._input.name == SPEECH_SAMPLES else "frames of features"
        if length < of.least:
            raise InvalidInputError(f"the speech has {length} {unit}, and the encoder needs {of.least}; give more")
        if length > most:
            raise CapacityError(
                f"the speech has {length} {unit}, more than the {most} that the encoder was compiled for; cut it into shorter "
                "pieces, or compile with a larger --max-source-len"
            )
        return of.places(length)

    def text(self, token_ids: Sequence[int]) -> Source:
        """Encode a text. Raises ``InvalidInputError`` for none, and for one with a token that a source must not have;
        ``CapacityError`` for one that is too long."""
        if not self.takes_text:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {self.kind}, and there is a text; omit it"
            )
        if self.takes_pages:
            raise InvalidInputError("the model reads an image and a text, and there is a text; give an image")
        limit = self.encoder.contract.max_source_len
        if not len(token_ids):
            raise InvalidInputError("the text has no tokens; give some text")
        if len(token_ids) > limit:
            raise CapacityError(
                f"the text has {len(token_ids)} tokens, more than the {limit} that the encoder was compiled for; shorten it, or "
                "compile with a larger --max-source-len"
            )
        self._check_ids(token_ids)
        ids = np.array([token_ids], np.int64)
        lengths = np.array([len(token_ids)], np.int32)
        return self._encode({SOURCE_IDS: ids, SOURCE_LENGTHS: lengths}, len(token_ids), digest_of(ids))

    def _check_ids(self, token_ids: Sequence[int]) -> None:
        """Raise ``InvalidInputError`` for a token that a source must not have."""
        refused = set(self.encoder.contract.refused_ids).intersection(token_ids)
        if refused:
            raise InvalidInputError(
                f"the text has the padding token ({min(refused)}), which the model does not count in its positions; remove it"
            )

    def image_text(self, pixels: np.ndarray, token_ids: Sequence[int], question: Sequence[int] = ()) -> Source:
        """Encode an image ``[3, H, W]`` and the text after it; ``question`` is the text in the tokens that are for its image, where
        the encoder reads it with that. Raises ``CapacityError`` for a text that is too long.
        """
        if not (self.takes_text and self.takes_pages):
            raise InvalidInputError(f"the bundle is of an encoder-decoder that takes {self.kind}")
        spec = self.encoder.contract.input(PAGE_PIXELS)
        if pixels.shape != spec.shape[1:]:
            raise InvalidInputError(f"the image has shape {pixels.shape}; the encoder takes {spec.shape[1:]}")
        limit, places = self.encoder.contract.max_source_len, self.image_places + len(token_ids)
        if places > limit:
            raise CapacityError(
                f"the image has {self.image_places} places and the text {len(token_ids)} tokens, more than the {limit} that the "
                "encoder was compiled for; shorten the text, or compile with a larger --max-source-len"
            )
        self._check_ids(token_ids)
        batch = _batch_of(pixels, spec)
        ids = np.array([[*[0] * self.image_places, *token_ids]], np.int64)
        lengths = np.array([places], np.int32)
        asked = np.array([question], np.int64)
        feeds: dict[str, np.ndarray] = {
            SOURCE_IDS: ids,
            SOURCE_LENGTHS: lengths,
            PAGE_PIXELS: batch,
            QUESTION_IDS: asked,
        }
        if self._asks and not 0 < len(question) <= limit:
            raise InvalidInputError(
                f"the encoder reads 1 to {limit} tokens of the text with its image, and gets {len(question)}"
            )
        return self._encode(feeds, places, f"{digest_of(batch)} {digest_of(ids)} {digest_of(asked)}")

    @property
    def window(self) -> int | None:
        """Frames of features of one window of speech; ``None`` for an encoder of speech of any length."""
        return None if self.encoder.contract.subsampling is not None else self._input.resolve(batch=1)[2]

    def speech(self, speech: Speech) -> Source:
        """Encode speech. Raises ``InvalidInputError`` for speech that is too long."""
        return self.source(self.speech_features().features(speech.audio))

    def features(self, speech: Speech) -> np.ndarray:
        """Features of speech of any length: log-mel ``[mels, n]`` of at least one window, or those that ``source`` takes."""
        return self.speech_features().all_features(speech.audio)

    def speech_features(self) -> SpeechFeatures:
        """What computes features of speech. Raises ``InvalidInputError`` for a model that takes none, or whose are not computed."""
        if not self.takes_speech:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {self.kind}, and there is speech; omit it"
            )
        if self.extractor is None:
            raise InvalidInputError(self._without_extractor)
        return self.extractor

    def page(self, image: ImageFile) -> Source:
        """Encode a page: a file, or pixels. Raises ``InvalidInputError`` for what is no image."""
        return self.source(self.page_processor().prepare(image))

    def page_processor(self) -> PageProcessor | ImageTextProcessor:
        """What prepares pages. Raises ``InvalidInputError`` for a model that takes none, or whose are not prepared."""
        if not self.takes_pages:
            raise InvalidInputError(
                f"the bundle is of an encoder-decoder that takes {self.kind}, and there is an image; omit it"
            )
        if self.pages is None:
            raise InvalidInputError(self._without_pages)
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
        if isinstance(self.pages, ImageTextProcessor) and self.pages.instruction is not None:
            self.pages.instruction.close()
        self.encoder.close()


def settings_of(files: Files, part: str) -> Mapping[str, Any]:
    """Of a part of the checkpoint's processor; newer checkpoints have them in a file for all of it."""
    own = read_json(files, "preprocessor_config.json")
    found = own.get(part, own) or read_json(files, "processor_config.json").get(part)
    return found if isinstance(found, Mapping) else {}


def _batch_of(content: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """One source as the encoder takes it. Raises ``InvalidInputError`` for numbers that are not finite."""
    with np.errstate(over="ignore"):  # they are named below
        batch = np.ascontiguousarray(content[None], spec.dtype.numpy)
    if not np.isfinite(batch).all():
        raise InvalidInputError(
            f"the source has numbers that are not finite, or beyond {spec.dtype.value}; give others (speech that is silent "
            "throughout has no features where they are divided by their deviation)"
        )
    return batch


def _words(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
