"""Text to text: both networks together answer as ``generate()`` does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DiaConfig, DiaForConditionalGeneration, UdopConfig, UdopForConditionalGeneration

from tests.compile.seq2seq.seq2seqs import MAX_SOURCE_LEN, answers, compiled, texts, wanted
from tests.models.tiny_seq2seq import FAMILIES, tiny_seq2seq
from tt_edge.compile.parity.seq2seq.logits import Seq2SeqReference
from tt_edge.compile.seq2seq.model import Seq2Seq, cross_states
from tt_edge.compile.seq2seq.positions import Positions
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart

#: Of unequal lengths, more than there are slots, and one as long as the encoder takes.
SOURCES = texts(20, 7, MAX_SOURCE_LEN, 1)
FORMS = {
    "no cache": {"backend": "sdpa"},
    "static_v1": {"backend": "sdpa", "cache": "static_v1"},
    "static_v2": {"backend": "sdpa", "cache": "static_v2"},
}


def check(family: str, **settings: object) -> None:
    model = tiny_seq2seq(family)
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    start = model.config.decoder_start_token_id
    search = {"max_new_tokens": 24, "no_repeat_ngram_size": 2}  # random weights repeat themselves otherwise
    got = answers(compiled(model, **settings), [start], SOURCES, **search)
    assert got == [wanted(model, source, **search) for source in SOURCES]
    assert all(len(set(tokens)) > 4 for tokens in got)


@pytest.mark.parametrize("family", FAMILIES)
def test_native(family):
    check(family)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_sdpa(family, form):
    check(family, **FORMS[form])


@pytest.mark.parametrize("most", [3, 8])
def test_an_encoder_of_few_tokens(most):
    """Fewer than the source has that is otherwise traced with."""
    model = tiny_seq2seq("t5")
    sources = texts(most, 1)
    got = answers(compiled(model, source_len=most), [model.config.decoder_start_token_id], sources, max_new_tokens=8)
    assert got == [wanted(model, source, max_new_tokens=8) for source in sources]


def test_padding_of_sources_is_exact():
    """What stands after a source's tokens changes nothing, bit by bit."""
    encoder, _ = compiled(tiny_seq2seq("t5"))
    run = ReferenceFeedForward(encoder.network, encoder.contract).run
    ids = texts(20)[0][None]
    lengths = np.array([13], np.int32)
    alone = run({"source_ids": ids[:, :13], "source_lengths": lengths})
    padded = [
        run({"source_ids": np.where(np.arange(20) < 13, ids, filler), "source_lengths": lengths}) for filler in (0, 7)
    ]
    for name, keys in alone.items():
        np.testing.assert_array_equal(padded[0][name][:, :, :13], padded[1][name][:, :, :13])
        np.testing.assert_allclose(padded[0][name][:, :, :13], keys, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_half_precision(family):
    """In fp16 the keys and values of the source are as close to fp32 as PyTorch's own."""
    model = tiny_seq2seq(family, torch.float16)
    encoder, decoder = compiled(model, "fp16")
    ids = SOURCES[0][None]
    got = ReferenceFeedForward(encoder.network, encoder.contract).run(
        {"source_ids": ids, "source_lengths": np.array([ids.shape[1]], np.int32)}
    )
    with torch.no_grad():
        own = [t.float().numpy() for t in cross_states(model, torch.from_numpy(ids))]
        exact = [t.numpy() for t in cross_states(model.float(), torch.from_numpy(ids))]
    norm = np.linalg.norm(np.concatenate([t.ravel() for t in exact]))
    errors = [
        np.linalg.norm(np.concatenate([(a - b).ravel() for a, b in zip(found, exact, strict=True)])) / norm
        for found in ([t.astype(np.float32) for t in got.values()], own)
    ]
    assert errors[0] <= 2 * errors[1]
    assert decoder.contract.input("cross_key_0").dtype.value == "float16"


def test_forced_and_suppressed_tokens():
    model = tiny_seq2seq("bart")
    settings = {
        "max_new_tokens": 12, "forced_bos_token_id": 40, "forced_eos_token_id": 2, "begin_suppress_tokens": [52, 30],
        "suppress_tokens": [11, 12], "no_repeat_ngram_size": 3, "min_length": 6, "repetition_penalty": 1.2,
    }  # fmt: skip
    got = answers(compiled(model), [2], SOURCES, eos_token_ids=(2,), **settings)
    assert got == [wanted(model, source, num_beams=1, **settings) for source in SOURCES]
    assert all(tokens[0] == 40 for tokens in got)


@pytest.mark.parametrize("family", ["fsmt", "m2m_100"])
def test_a_padding_token(family):
    """In an answer it has its own embedding of a position; in a source, which it would shift, it is refused."""
    model = tiny_seq2seq(family)
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    parts, search = compiled(model), {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "forced_bos_token_id": 1}
    got = answers(parts, [model.config.decoder_start_token_id], SOURCES, **search)
    assert got == [wanted(model, source, num_beams=1, **search) for source in SOURCES]
    assert all(tokens[0] == 1 for tokens in got)
    assert parts[0].contract.refused_ids == (1,)
    pipeline = SourcePipeline(ReferenceFeedForward(parts[0].network, parts[0].contract), DecoderStart(2))
    with pytest.raises(InvalidInputError, match=r"the padding token \(1\), which the model does not count in its pos"):
        pipeline.text([5, 1, 6])


def test_a_padding_token_that_is_counted():
    """BART's positions are places: it is a token as any other."""
    model = tiny_seq2seq("bart")
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    source = np.array([5, 1, 6, 7])
    assert answers(compiled(model), [2], [source], max_new_tokens=8) == [wanted(model, source, max_new_tokens=8)]


def test_a_table_of_positions_ends_where_the_models_do():
    with pytest.raises(
        InvalidInputError, match=r"has no embeddings for 97 positions; compile with a lower --max-seq-len"
    ):
        Positions(tiny_seq2seq("bart"), 8, 97)


def test_the_structure_is_found():
    parts = Seq2Seq.of(tiny_seq2seq("t5"))
    assert (parts.source, parts.layers, parts.cross_shape) == ("source_ids", 2, (4, 2, 8))
    assert parts.cross_names == ["cross_key_0", "cross_value_0", "cross_key_1", "cross_value_1"]


def test_texts_with_boxes_are_refused():
    config = UdopConfig(
        vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, image_size=32, patch_size=8
    )
    with pytest.raises(
        UnsupportedModelError, match=r"takes boxes beside its tokens \(bbox, where each word stands on a p"
    ):
        Seq2Seq.of(UdopForConditionalGeneration(config).eval())


def test_an_answer_of_several_tokens_a_step_is_refused():
    """Dia's: codes of sound, in three channels."""
    small = {
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
    }
    across = {
        "cross_num_attention_heads": 4,
        "cross_num_key_value_heads": 4,
        "cross_head_dim": 8,
        "cross_hidden_size": 32,
    }
    small |= {"intermediate_size": 64, "vocab_size": 99}
    config = DiaConfig(
        encoder_config=small, decoder_config={**small, **across, "num_channels": 3}, delay_pattern=[0, 1, 2]
    )
    with pytest.raises(
        UnsupportedModelError, match=r"does not answer with one token after another from input_ids alone"
    ):
        Seq2Seq.of(DiaForConditionalGeneration(config).eval())


def test_a_decoder_with_more_layers_than_the_encoder():
    """transformers' own cache has as many layers as T5's encoder, and fails; what ``verify`` compares with does not."""
    model = tiny_seq2seq("t5", num_layers=1, num_decoder_layers=3)
    model.generation_config.eos_token_id = None
    answer = Seq2SeqReference(model, Precision.FP32).answer({"source_ids": SOURCES[1]}, [0], 8)
    assert answer.tokens == wanted(model, SOURCES[1], max_new_tokens=8, use_cache=False)
    assert len(answer.exact_cross) == 6
