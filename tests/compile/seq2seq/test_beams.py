"""Beam search equals ``generate(num_beams=…)``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.compile.seq2seq.seq2seqs import compiled, texts, wanted
from tests.compile.seq2seq.test_images_and_texts import IMAGE, MODELS
from tests.models.tiny_seq2seq import tiny_page_reader, tiny_seq2seq
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.beams import beam_search
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart

SETTINGS = [
    {"num_beams": 2},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3, "min_length": 8},
    {"num_beams": 3, "length_penalty": 0.6, "early_stopping": "never"},
    {"num_beams": 8, "length_penalty": -1.0, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize(("family", "form"), [("bart", {}), ("t5", {}), ("bart", {"backend": "sdpa"})])
def test_as_generate(family, form):
    model = tiny_seq2seq(family)
    model.generation_config.forced_eos_token_id = None
    start, eos = model.config.decoder_start_token_id, model.config.eos_token_id
    encoder, decoder = compiled(model, max_batch=8, **form)
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(start))
    session = ReferenceSession(decoder.network, decoder.contract)
    lengths = set()
    for settings in SETTINGS:
        for source in texts(14, 5):
            config = GenerationConfig(max_new_tokens=14, eos_token_ids=(eos,), **settings)
            got = beam_search(session, [start], config, pipeline.text(source.tolist()))
            assert got == wanted(model, source, max_new_tokens=14, **settings), settings
            lengths.add(len(got))
    assert len(lengths) > 1 or family == "bart"  # some of T5's answers end by themselves


def session_of(model, image_size=None):
    """Both networks, for eight beams."""
    encoder, decoder = compiled(model, image_size=image_size, max_batch=8)
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(2))
    return pipeline, ReferenceSession(decoder.network, decoder.contract)


def check(generated, session, start, source):
    """Each of ``SETTINGS``, also with a token that ends some beams. ``generated`` is transformers' answer."""
    lengths = set()
    (likely,) = {generated(num_beams=2, eos_token_id=None, max_new_tokens=14)[3]}
    for eos in (None, likely):
        for settings in SETTINGS:
            config = GenerationConfig(max_new_tokens=14, eos_token_ids=() if eos is None else (eos,), **settings)
            got = beam_search(session, [start], config, source)
            assert got == generated(max_new_tokens=14, eos_token_id=eos, **settings), (eos, settings)
            lengths.add(len(got))
    assert len(lengths) > 1


@pytest.mark.parametrize("kind", ["donut", "nougat", "trocr", "trocr_sinusoidal", "whisper"])
def test_pages_and_speech(kind):
    name = "input_features" if kind == "whisper" else "pixel_values"
    model = tiny_seq2seq(kind) if kind == "whisper" else tiny_page_reader(kind)
    pipeline, session = session_of(model)
    content = np.random.default_rng(1).standard_normal(pipeline.shape_of(0)).astype(np.float32)

    def generated(**settings):
        model.generation_config.eos_token_id = settings.pop("eos_token_id")
        return wanted(model, content, name, **settings)

    check(generated, session, 2, pipeline.source(content))


@pytest.mark.parametrize("kind", MODELS)
def test_an_image_and_a_text(kind):
    torch.manual_seed(0)
    model, processor = MODELS[kind]()
    text = model.eval() if kind == "florence2" else model.eval().language_model
    text.generation_config.forced_eos_token_id = None
    size = (processor.size["height"], processor.size["width"])
    pipeline, session = session_of(model, size)
    pixels, ids = np.random.default_rng(1).standard_normal((3, *size)).astype(np.float32), texts(7)[0]
    tokens = torch.tensor([[*[IMAGE] * pipeline.image_places, *ids]])
    given = {"pixel_values": torch.from_numpy(pixels)[None], "input_ids": tokens}

    def generated(**settings):
        text.generation_config.eos_token_id = settings.pop("eos_token_id")
        out = model.generate(**given, attention_mask=torch.ones_like(tokens), do_sample=False, **settings)
        return out[0, 1:].tolist()

    check(generated, session, 0 if kind == "blip-2" else 2, pipeline.image_text(pixels, ids.tolist()))
