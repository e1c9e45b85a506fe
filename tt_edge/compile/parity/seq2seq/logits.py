"""Comparing both networks of an encoder-decoder with Hugging Face's model."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationMixin

from tt_edge.compile.parity.references.loading import clean_generation, growing_cache
from tt_edge.compile.parity.references.rounding import farthest_rounding
from tt_edge.compile.parity.report import FeatureParity, ParityReport, allowed
from tt_edge.compile.parity.rows import compare_row
from tt_edge.compile.seq2seq.image_text import SourceImage, text_model
from tt_edge.compile.seq2seq.model import cross_states
from tt_edge.config import Precision
from tt_edge.contract import INPUT_FEATURES, PAGE_PIXELS, QUESTION_IDS, SOURCE_IDS, SPEECH_FEATURES, SPEECH_SAMPLES
from tt_edge.errors import InvalidInputError
from tt_edge.proof.golden import on_grid
from tt_edge.proof.replay import teacher_forced
from tt_edge.proof.sources import CROSS, encode
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.multimodal.prompt_images import NO_IMAGES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.parity.golden import GoldenMaker
    from tt_edge.contract import IOContract
    from tt_edge.network.ir import Network
    from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
    from tt_edge.runtime.seq2seq.source import Source

#: transformers' name of an encoder's input, by ours.
_NAMES = {
    SOURCE_IDS: "input_ids",
    INPUT_FEATURES: "input_features",
    SPEECH_FEATURES: "input_features",
    SPEECH_SAMPLES: "input_values",
    PAGE_PIXELS: "pixel_values",
    QUESTION_IDS: "qformer_input_ids",
}

_LOGITS = "logits"

#: A source, without a batch, by the names of the encoder's inputs.
Given = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Answer:
    """What Hugging Face answers to one source: greedy tokens, the logits ``[new_tokens, V]`` that chose them in the model's
    precision and in fp32, and keys and values ``[H, T, D]`` for the decoder in both. In fp32, its ``own`` are those of
    ``farthest_rounding``."""

    tokens: list[int]
    own: np.ndarray
    exact: np.ndarray
    own_cross: list[np.ndarray]
    exact_cross: list[np.ndarray]


class Seq2SeqReference:
    """What Hugging Face answers to sources, by plain greedy search: the checkpoint's generation settings are ignored."""

    def __init__(self, model: PreTrainedModel, precision: Precision) -> None:
        self.model = model
        self.truth = copy.deepcopy(model).float() if precision is not Precision.FP32 else model

    def answer(self, given: Given, start: Sequence[int], new_tokens: int) -> Answer:
        """The answer to the source ``given``, without a batch, that begins with ``start``."""
        inputs = {_NAMES[name]: torch.from_numpy(array)[None] for name, array in given.items()}
        inputs = {name: t.to(self.model.dtype) if t.is_floating_point() else t for name, t in inputs.items()}
        if SOURCE_IDS in given:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if QUESTION_IDS in given:
            inputs["qformer_attention_mask"] = torch.ones_like(inputs["qformer_input_ids"])
        # A model that reads an image and a text has a way of its own to generate; others' do more than answer (Whisper's).
        answers = self.model.generate if len(given) > 1 else partial(GenerationMixin.generate, self.model)
        with torch.no_grad(), clean_generation(text_model(self.model)):
            text_model(self.model).generation_config.decoder_start_token_id = start[0]
            begin = torch.tensor([list(start)])
            out = answers(
                **inputs,
                **growing_cache(self.model),
                decoder_input_ids=begin,
                max_new_tokens=new_tokens,
                use_cache=True,
            )
            tokens: list[int] = out[0, -new_tokens:].tolist()
            decoder_ids = torch.tensor([[*start, *tokens]])
            exact = self._computed(self.truth, inputs, decoder_ids, new_tokens)
            computed = partial(self._computed, self.model, inputs, decoder_ids, new_tokens)
            own = computed() if self.truth is not self.model else farthest_rounding(self.model, exact, computed)
        return Answer(tokens, own.pop(_LOGITS), exact.pop(_LOGITS), list(own.values()), list(exact.values()))

    @staticmethod
    def _computed(
        model: PreTrainedModel, inputs: dict[str, Tensor], decoder_ids: Tensor, new_tokens: int
    ) -> dict[str, np.ndarray]:
        """The logits, and keys and values by their numbers."""
        given: dict[str, Any] = {k: t.to(model.dtype) if t.is_floating_point() else t for k, t in inputs.items()}
        logits: Tensor = model(**given, decoder_input_ids=decoder_ids, use_cache=False).logits
        source = next(given[k] for k in ("input_ids", *_NAMES.values()) if k in given)
        embedded: dict[str, Any] = {}
        if (image := SourceImage.of(model, _size_of(given))) is not None:
            embedded["inputs_embeds"] = image.embeddings(source, given["pixel_values"], given.get("qformer_input_ids"))
        cross = cross_states(text_model(model), source, **embedded)
        found = {_LOGITS: logits[0, -new_tokens - 1 : -1]} | {str(i): t[0] for i, t in enumerate(cross)}
        return {name: t.float().numpy() for name, t in found.items()}


def _size_of(given: dict[str, Any]) -> tuple[int, int] | None:
    pixels = given.get("pixel_values")
    return None if pixels is None else (int(pixels.shape[2]), int(pixels.shape[3]))


def with_images(
    encoder: IOContract, sources: Sequence[np.ndarray], seed: int, image_token: int | None, questions: int = 0
) -> list[Given]:
    """The sources by the names of the encoder's inputs: beside texts, a random image each if it takes one, and random ids below
    ``questions`` if it reads the text with the image.
    """
    generator, name = np.random.default_rng(seed), encoder.inputs[0].name
    places = encoder.limits.max_image_tokens
    if image_token is None or places is None:
        return [{name: source} for source in sources]
    shape = encoder.input(PAGE_PIXELS).resolve()[1:]
    placeholders = np.full(places, image_token)
    given = [
        {name: np.concatenate([placeholders, source]), PAGE_PIXELS: on_grid(generator.standard_normal(shape))}
        for source in sources
    ]
    if any(spec.name == QUESTION_IDS for spec in encoder.inputs):
        for each, source in zip(given, sources, strict=True):
            each[QUESTION_IDS] = generator.integers(0, questions, len(source))
    return given


def random_sources(
    encoder: IOContract, decoder: IOContract, seed: int, excluded: Collection[int] = ()
) -> list[np.ndarray]:
    """Up to three random sources, of different lengths where those may differ, as many as the batch allows.

    Of an encoder that takes an image and a text, they are the texts.
    """
    generator, spec = np.random.default_rng(seed), encoder.inputs[0]
    count = min(3, decoder.max_batch)
    of = encoder.subsampling
    if spec.name != SOURCE_IDS and of is None:
        shape = spec.resolve(batch=1)[1:]
        return [on_grid(generator.standard_normal(shape)) for _ in range(count)]
    most, least = min(encoder.max_source_len - (encoder.limits.max_image_tokens or 0), 48), 1 if of is None else 2
    lengths = list(dict.fromkeys((most, max(least, most // 5), max(least, most // 2))))[:count]
    if of is not None:
        sizes = [(of.fewest(places), *spec.resolve(batch=1, frames=1)[2:]) for places in lengths]
        return [on_grid(generator.standard_normal(size)) for size in sizes]
    vocabulary = np.setdiff1d(np.arange(decoder.vocab_size), list(excluded))
    return [vocabulary[generator.integers(0, len(vocabulary), length)] for length in lengths]


def check_seq2seq(
    reference: Seq2SeqReference,
    pipeline: SourcePipeline,
    network: Network,
    contract: IOContract,
    precision: Precision,
    *,
    new_tokens: int = 32,
    seed: int = 0,
    special_ids: Collection[int] = (),
    maker: GoldenMaker | None = None,
) -> ParityReport:
    """Compare the captured networks with ``reference``, in a batch of unequal sources and with a batch of one.

    ``pipeline`` encodes with the captured encoder; ``network`` and ``contract`` are of the decoder. Random texts contain none of
    ``special_ids``. Hugging Face's results are passed to ``maker``, for a golden set. Raises ``InvalidInputError`` for more
    ``new_tokens`` than the decoder has room for.
    """
    encoder = pipeline.encoder.contract
    start = [max(token, 0) for token in pipeline.start.default]  # any token for a language that is to be detected
    if len(start) + new_tokens > contract.max_seq_len:
        raise InvalidInputError(
            f"{new_tokens} new tokens after {len(start)} exceed max_seq_len {contract.max_seq_len}; lower --new-tokens"
        )
    image_token = getattr(reference.model.config, "image_token_id", None) if pipeline.takes_text else None
    excluded = [*special_ids, *encoder.refused_ids, *([] if image_token is None else [image_token])]
    questions = getattr(getattr(reference.model.config, "qformer_config", None), "vocab_size", 0)
    given = with_images(encoder, random_sources(encoder, contract, seed, excluded), seed, image_token, questions)
    answers = [reference.answer(source, start, new_tokens) for source in given]
    encoded = [encode(pipeline, source) for source in given]
    session = ReferenceSession(network, contract)
    batches = [range(len(given))] if len(given) == 1 else [range(len(given)), range(1)]
    rows = []
    for batch in batches:
        for slot, index in enumerate(batch):
            session.write_cross(slot, encoded[index].cross, encoded[index].length)
        chosen = [answers[index] for index in batch]
        logits = teacher_forced(
            session, [start] * len(chosen), [NO_IMAGES] * len(chosen), [answer.tokens for answer in chosen]
        )
        rows += [
            compare_row(encoded[index].length, out, answer.tokens, answer.own, answer.exact)
            for index, out, answer in zip(batch, logits, chosen, strict=True)
        ]
    features = tuple(_cross_parity(source, answer) for source, answer in zip(encoded, answers, strict=True))
    if maker is not None:
        maker.add_sources(given, start, answers, batches, max(each.reference_error for each in features))
    own = max(row.reference_error for row in rows)
    return ParityReport(precision.value, tuple(rows), allowed(precision.value, own), features)


def _cross_parity(source: Source, answer: Answer) -> FeatureParity:
    """All keys and values of one source, compared as one vector."""
    exact, own = (np.concatenate([t.ravel() for t in cross]) for cross in (answer.exact_cross, answer.own_cross))
    got = np.concatenate([t[:, : source.length].astype(np.float32).ravel() for t in source.on_host().values()])
    norm = float(np.linalg.norm(exact))
    return FeatureParity(
        table=CROSS,
        pictures=1,
        tokens=source.length,
        relative_error=float(np.linalg.norm(got - exact)) / norm,
        reference_error=float(np.linalg.norm(own - exact)) / norm,
        part="encoder",
    )
