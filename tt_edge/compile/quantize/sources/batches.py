"""Batches of both inputs of an encoder-decoder: sources as the runtime prepares them, and answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.half_products import float32_products
from tt_edge.compile.limits import longest_answer, longest_source
from tt_edge.compile.parity.references.loading import growing_cache
from tt_edge.compile.quantize.data import Batch, CalibrationData
from tt_edge.compile.quantize.sources.samples import SourceSample, Takes, samples_of
from tt_edge.compile.seq2seq.image_text import image_size_of
from tt_edge.compile.seq2seq.model import Seq2Seq, main_input
from tt_edge.errors import BundleError, InvalidInputError, TTEdgeError
from tt_edge.runtime.audio import load_audio
from tt_edge.runtime.audio.extractors import SpeechFeatures, extractor_of
from tt_edge.runtime.seq2seq.image_text import ImageTextProcessor
from tt_edge.runtime.seq2seq.page import PageProcessor
from tt_edge.runtime.seq2seq.pipeline import settings_of
from tt_edge.runtime.seq2seq.prompt import DETECT, DecoderStart
from tt_edge.runtime.text.tokenizer import Files, read_json

_LOGGER = logging.getLogger("tt_edge")
#: Tokens of an answer that the model gives by itself, where the data has none.
_ANSWER = 32


class SourceBatches(Sequence[Batch]):
    """A source and its answer a batch, so that there is no padding; pixels and features are made on each access."""

    def __init__(self, sources: _Sources, samples: Sequence[SourceSample], answers: Sequence[Sequence[int]]) -> None:
        self._sources, self._rows = sources, list(zip(samples, answers, strict=True))

    @classmethod
    def of(cls, model: PreTrainedModel, files: Files, tokenizer: Checkpoint, data: CalibrationData) -> SourceBatches:
        """Load ``data``. Answers that it does not have are the model's own: greedy, up to 32 tokens.

        ``files`` are the future bundle's. Raises ``InvalidInputError``, with file and line, for a sample that the model does not
        take.
        """
        sources = _Sources(model, files, tokenizer, data.max_length)
        samples = list(islice(samples_of(data.source, sources.takes), data.samples))
        if not samples:
            raise InvalidInputError(f"calibration data {data.source} is empty; give {sources.takes}")
        if data.source is None and not (sources.takes.text and not sources.takes.page):
            _LOGGER.warning(
                "%s is calibrated on generated %s; give --calib-data with real ones (docs/explanation/seq2seq.md)",
                sources.takes.name,
                sources.takes.other,
            )
        return cls(sources, samples, sources.answers(samples, data))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SourceBatches(self._sources, *zip(*self._rows[index], strict=True))
        sample, answer = self._rows[index]
        return {**self._sources.inputs(sample), "decoder_input_ids": torch.tensor([list(answer)])}


class _Sources:
    """Prepares sources for ``model``, as the runtime will."""

    def __init__(self, model: PreTrainedModel, files: Files, tokenizer: Checkpoint, max_length: int) -> None:
        self._owner, self._files, self._checkpoint = model, files, tokenizer
        self._parts = parts = Seq2Seq.of(model, image_size_of(files))
        speech = parts.speech_size is not None
        self.takes = Takes(
            type(model).__name__,
            parts.takes_text,
            speech,
            parts.image is not None or not (speech or parts.takes_text),
        )
        self._most_source = min(max_length, longest_source(parts) or max_length)
        self._most_answer = min(max_length, longest_answer(parts.model) or max_length)
        settings = read_json(files, "generation_config.json")
        self._start, self._forced = DecoderStart.from_settings(settings), settings.get("forced_bos_token_id")

    @property
    def _tokenizer(self) -> Any:
        return self._checkpoint.tokenizer

    @cached_property
    def _extractor(self) -> SpeechFeatures:
        return extractor_of(self._settings("feature_extractor"), any_length=self._parts.fixed_size is None)

    @cached_property
    def _pages(self) -> PageProcessor | ImageTextProcessor:
        settings, image = self._settings("image_processor"), self._parts.image
        if image is None:
            return PageProcessor.from_settings(settings)
        model = read_json(self._files, "config.json")
        found = ImageTextProcessor.from_settings(settings, model, image.size[1:], image.tokens)
        return found if image.instruction is None else found.reading(self._files, image.instruction.most)

    def _settings(self, part: str) -> Any:
        settings = settings_of(self._files, part)
        if not settings:
            raise BundleError(
                f"{self.takes.name} is calibrated on {self.takes.other}, and the checkpoint has no preprocessor_config.json to "
                "prepare them by; add it, or choose a format that needs no data (int8_wo, int4_wo)"
            )
        return settings

    def inputs(self, sample: SourceSample) -> dict[str, Tensor]:
        """transformers' inputs of one source, with floats in the model's type. Raises ``InvalidInputError`` with file and line."""
        try:
            found = self._inputs(sample)
        except TTEdgeError as error:
            raise InvalidInputError(f"{sample.where}: {error}") from error
        return {name: t.to(self._parts.model.dtype) if t.is_floating_point() else t for name, t in found.items()}

    def _inputs(self, sample: SourceSample) -> dict[str, Tensor]:
        name = main_input(self._parts.model)
        if sample.audio is not None:
            audio = load_audio(sample.audio) if isinstance(sample.audio, str) else sample.audio
            return {name: _batch(self._extractor.features(audio))}
        pixels = None if sample.image is None else _batch(self._pages.prepare(sample.image))
        if not self.takes.text:
            assert pixels is not None
            return {name: pixels}
        if pixels is None:
            return {name: self._ids(sample.text, self._most_source)}
        assert isinstance(self._pages, ImageTextProcessor)
        assert self._parts.image is not None
        places = self._parts.image.tokens
        ids = self._ids(self._pages.text(sample.text), self._most_source)
        self._pages.check_ids(ids[0].tolist())
        images = torch.full((1, places), int(self._owner.config.image_token_id))
        found = {name: torch.cat([images, ids], 1), "pixel_values": pixels}
        if (instruction := self._parts.image.instruction) is not None:
            found[instruction.name] = torch.tensor([self._pages.question(sample.text)])
        return found

    def _ids(self, text: str, most: int) -> Tensor:
        ids: Tensor = self._tokenizer(text, truncation=True, max_length=most, return_tensors="pt")["input_ids"]
        if not ids.numel():
            raise InvalidInputError("its text has no tokens; give some text or remove the line")
        return ids

    def answers(self, samples: Sequence[SourceSample], data: CalibrationData) -> list[list[int]]:
        """What the decoder is given for each sample, beginning included."""
        device = data.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._owner.to(device)
        try:
            with torch.inference_mode(), float32_products():
                return [self._answer(sample, device)[: self._most_answer] for sample in samples]
        finally:
            self._owner.to("cpu")

    def _answer(self, sample: SourceSample, device: str) -> list[int]:
        try:
            start = list(self._start.asked(sample.language, sample.task))
        except InvalidInputError as error:
            raise InvalidInputError(f"{sample.where}: {error}") from error
        inputs = {name: tensor.to(device) for name, tensor in self.inputs(sample).items()}
        if DETECT in start:
            start[start.index(DETECT)] = self._language(inputs, start)
        if sample.answer is not None:
            forced = [] if self._forced is None or len(start) > 1 else [int(self._forced)]
            ids = self._tokenizer(text_target=sample.answer, add_special_tokens=False)["input_ids"]
            return [*start, *forced, *ids]
        # A model that reads an image and a text has a way of its own to generate; others' do more than answer (Whisper's).
        own = self._owner.generate if "pixel_values" in inputs and self.takes.text else None
        generate = own or partial(GenerationMixin.generate, self._owner)
        out = generate(
            **inputs,
            **growing_cache(self._owner),
            decoder_input_ids=torch.tensor([start], device=device),
            max_new_tokens=max(1, min(_ANSWER, self._most_answer - len(start))),
            do_sample=False,
            num_beams=1,
        )
        answer: list[int] = out[0].tolist()
        return answer if answer[: len(start)] == start else [*start, *answer]

    def _language(self, inputs: dict[str, Tensor], start: Sequence[int]) -> int:
        """The likeliest language, of those that the model knows."""
        languages = list(self._start.languages.values())
        first = torch.tensor([list(start[: start.index(DETECT)])], device=next(iter(inputs.values())).device)
        logits = self._owner(**inputs, decoder_input_ids=first, use_cache=False).logits[0, -1]
        return languages[int(logits[languages].argmax())]


def _batch(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[None], np.float32))
