"""Compiled encoder-decoders, and what both parts answer together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import GenerationMixin, PreTrainedModel

from tests.compile.compiled_once import compiled_once
from tt_edge.compile.part import CompiledPart
from tt_edge.compile.seq2seq.model import Seq2Seq
from tt_edge.compile.seq2seq.parts import EncoderCompiler, Seq2SeqDecoderCompiler
from tt_edge.config import CompileConfig
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart

#: Three slots, answers of 40 tokens, and texts of 48.
MAX_SEQ_LEN, MAX_SOURCE_LEN = 40, 48


def compiled(
    model: PreTrainedModel,
    precision: str = "fp32",
    image_size: tuple[int, int] | None = None,
    source_len: int = MAX_SOURCE_LEN,
    **settings: object,
) -> tuple[CompiledPart, CompiledPart]:
    """The encoder and the decoder."""
    parts = Seq2Seq.of(model, image_size)
    limits = {"max_batch": 3, "max_seq_len": MAX_SEQ_LEN, "max_input_len": MAX_SEQ_LEN}
    config = CompileConfig.of(precision=precision, **{**limits, **settings})  # type: ignore[arg-type]
    places = source_len if parts.fixed_size is None else parts.cross_shape[1]
    places_of_image = None if parts.image is None else parts.image.tokens
    limits_of_source = {
        "max_source_len": places,
        "min_image_tokens": places_of_image,
        "max_image_tokens": places_of_image,
    }
    config = config.with_limits(replace(config.limits, **limits_of_source))
    # No pass of an encoder looks at the backend or the cache, so that all forms of a decoder share it.
    plain = replace(config, attention=CompileConfig.of(precision=precision).attention)
    return (
        compiled_once(EncoderCompiler(parts, plain, "tiny-encoder")),
        compiled_once(Seq2SeqDecoderCompiler(parts, config, "tiny")),
    )


def answers(
    parts: tuple[CompiledPart, CompiledPart], start: Sequence[int], sources: Sequence[np.ndarray], **settings: object
) -> list[list[int]]:
    """New tokens of each source; more sources than slots wait for one."""
    encoder, decoder = parts
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(start[0]))
    session = ReferenceSession(decoder.network, decoder.contract)
    config = GenerationConfig(**settings)  # type: ignore[arg-type]
    encoded = [pipeline.source(source) for source in sources]
    found = generate(session, [start] * len(sources), config, sources=encoded)
    return [each.new_token_ids for each in found]


def wanted(model: PreTrainedModel, source: np.ndarray, name: str = "input_ids", **settings: object) -> list[int]:
    """New tokens of transformers' ``generate()`` for one source."""
    given = torch.from_numpy(source)[None]
    more = {"attention_mask": torch.ones_like(given)} if name == "input_ids" else {}
    out = GenerationMixin.generate(model, **{name: given}, **more, do_sample=False, **settings)
    tokens: list[int] = out[0, 1:].tolist()
    return tokens


def texts(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(3, 99, length) for length in lengths]
