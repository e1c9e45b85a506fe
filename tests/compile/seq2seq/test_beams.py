"""Beam search equals ``generate(num_beams=…)``."""

from __future__ import annotations

import pytest

from tests.compile.seq2seq.seq2seqs import compiled, texts, wanted
from tests.tiny_seq2seq import tiny_seq2seq
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
