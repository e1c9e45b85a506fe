"""Speech that has as many places as it is long: both networks answer as Speech2Text's ``generate()`` does."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from transformers import Speech2TextConfig, Speech2TextForConditionalGeneration

from tests.compile.seq2seq.seq2seqs import MAX_SOURCE_LEN, answers, compiled, wanted
from tests.models.tiny_seq2seq import save_seq2seq
from tests.runtime.audio.test_log_mel import sound
from tt_edge.compile.files import HostFiles
from tt_edge.compile.parity.seq2seq.logits import random_sources
from tt_edge.compile.seq2seq.speech import check_extractor
from tt_edge.contract import IOContract, Subsampling
from tt_edge.errors import BundleError, CapacityError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.audio import Audio
from tt_edge.runtime.audio.extractors import extractor_of
from tt_edge.runtime.benchmark.local import measure
from tt_edge.runtime.benchmark.workload import Plan
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.scheduling.beams import beam_search
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.seq2seq.source import Speech
from tt_edge.runtime.text.tokenizer import BundleTokenizer

#: Two convolutions of stride 2: 5 frames make two places, and the longest source has as many places as there are.
LENGTHS = (150, 5, 4 * MAX_SOURCE_LEN - 3, 62)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Speech2TextConfig(
        vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, conv_channels=16, input_feat_per_channel=10, max_source_positions=200,
        max_target_positions=96, init_std=0.3, eos_token_id=None,
    )  # fmt: skip
    model = Speech2TextForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def parts(model):
    return compiled(model)


def speech(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((length, 10)).astype(np.float32) for length in lengths]


def test_features_to_tokens(model, parts):
    sources, search = speech(*LENGTHS), {"max_new_tokens": 24, "no_repeat_ngram_size": 2}
    got = answers(parts, [2], sources, **search)
    assert got == [wanted(model, source, "input_features", **search) for source in sources]
    assert all(len(set(tokens)) > 4 for tokens in got)


def test_beams(model, parts):
    encoder, decoder = parts
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(2))
    session = ReferenceSession(decoder.network, decoder.contract)
    search = {"max_new_tokens": 14, "num_beams": 3, "no_repeat_ngram_size": 2}
    for source in speech(62, 31):
        got = beam_search(session, [2], GenerationConfig(**search), pipeline.source(source))
        assert got == wanted(model, source, "input_features", **search)


def test_lengths(parts):
    """The contract says how many places a source becomes, what an engine takes, and nothing longer or shorter is encoded."""
    encoder, _ = parts
    contract = IOContract.from_dict(encoder.contract.to_dict())
    assert contract == encoder.contract
    assert contract.subsampling == Subsampling(stride=4, offset=3)
    sizes = contract.profiles()[0]["speech_features"]
    assert (sizes.min, sizes.max) == ((1, 5, 10), (1, LENGTHS[2], 10))
    assert contract.output_sizes({"speech_features": (1, 62, 10)})["source"] == 16
    assert {len(source) for source in random_sources(contract, parts[1].contract, 0)} == {189, 33, 93}
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(2))
    assert pipeline.source(speech(62)[0]).length == 16
    with pytest.raises(InvalidInputError, match=r"has 4 frames of features, and the encoder needs 5"):
        pipeline.source(speech(4)[0])
    with pytest.raises(CapacityError, match=r"has 190 frames of features, more than the 189"):
        pipeline.source(speech(190)[0])
    with pytest.raises(InvalidInputError, match=r"the source has shape \(62, 9\); the encoder takes"):
        pipeline.source(speech(62)[0][:, :9])
    with pytest.raises(InvalidInputError, match=r"has numbers that are not finite"):
        pipeline.source(np.full((62, 10), np.nan, np.float32))
    with pytest.raises(
        InvalidInputError, match=r"the bundle has no preprocessor_config.json, so it takes features only"
    ):
        pipeline.speech(Speech(Audio(np.zeros(16_000, np.float32), 16_000)))


def test_a_row_alone_is_that_row_of_a_batch(parts):
    """Bit by bit: sources are encoded one by one, and the decoder sees only the places of its own."""
    sources, search = speech(*LENGTHS[:3]), {"max_new_tokens": 12, "no_repeat_ngram_size": 2}
    together = answers(parts, [2], sources, **search)
    assert together == [answers(parts, [2], [source], **search)[0] for source in sources]


def test_sound_to_text(model, parts, tmp_path):
    """From samples on, as transformers' extractor and ``generate()``; in one answer, without times."""
    from transformers import Speech2TextFeatureExtractor

    extractor = Speech2TextFeatureExtractor(feature_size=10, num_mel_bins=10)
    encoder, decoder = parts
    save_seq2seq(model, tmp_path, eos=3)
    network = ReferenceFeedForward(encoder.network, encoder.contract)
    pipeline = SourcePipeline(network, DecoderStart(2), extractor_of(extractor.to_dict()))
    tokenizer = BundleTokenizer.from_bundle(HostFiles.of_folder(tmp_path))
    samples = sound(0.8)
    features = extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    with LLM(ReferenceSession(decoder.network, decoder.contract), tokenizer, source=pipeline) as llm:
        config = llm.config(max_new_tokens=12, no_repeat_ngram_size=2, eos_token_ids=())
        given = Speech(Audio(samples, 16_000))
        found = llm.transcribe(given, config)
        assert found.token_ids == wanted(model, features, "input_features", max_new_tokens=12, no_repeat_ngram_size=2)
        assert [(each.start, each.end) for each in found.segments] == [(0.0, 0.8)]
        assert llm.generate([given], config)[0].new_token_ids == found.token_ids
        assert measure(llm, Plan(isl=20, osl=4, batch=2, warmup=0, runs=1)).requests
        with pytest.raises(InvalidInputError, match=r"at once, without timestamps; omit them"):
            llm.transcribe(given, config, timestamps=True)
        with pytest.raises(CapacityError, match=r"cut it into shorter pieces"):
            llm.transcribe(Speech(Audio(sound(3.0), 16_000)), config)
        with pytest.raises(InvalidInputError, match=r"has numbers that are not finite.*silent"):
            llm.transcribe(Speech(Audio(np.zeros(16_000, np.float32), 16_000)), config)


def test_an_extractor_that_is_not_there(parts):
    """The bundle takes features, and says whose."""
    encoder, _ = parts
    files = HostFiles({
        "generation_config.json": b'{"decoder_start_token_id": 2}',
        "preprocessor_config.json": b'{"feature_extractor_type": "ParakeetFeatureExtractor"}',
    })  # fmt: skip
    pipeline = SourcePipeline.from_bundle(files, ReferenceFeedForward(encoder.network, encoder.contract))
    assert pipeline.source(speech(62)[0]).length == 16
    with pytest.raises(InvalidInputError, match=r"speech for ParakeetFeatureExtractor is not prepared here"):
        pipeline.speech(Speech(Audio(sound(0.5), 16_000)))
    for settings, message in (
        (b'{"num_mel_bins": 10}', r"preprocessor_config.json has no feature_extractor_type, so it is not known"),
        (b'{"feature_extractor_type": "Speech2TextFeatureExtractor", "num_mel_bins": 10, "dither": 0.1}', r"dither is 0\.1"),
    ):  # fmt: skip
        files["preprocessor_config.json"] = settings
        pipeline = SourcePipeline.from_bundle(files, pipeline.encoder)
        with pytest.raises(InvalidInputError, match=message):
            pipeline.speech(Speech(Audio(sound(0.5), 16_000)))
    files["preprocessor_config.json"] = b'{"feature_extractor_type": "Speech2TextFeatureExtractor"}'
    with pytest.raises(BundleError, match=r"makes features \(frames, 80\), and the encoder takes \(frames, 10\)"):
        SourcePipeline.from_bundle(files, pipeline.encoder)


def test_a_compile_says_that_audio_will_be_refused(caplog):
    name = {"feature_extractor_type": "Speech2TextFeatureExtractor", "num_mel_bins": 10}
    check_extractor(name, (None, 10), "checkpoint")
    check_extractor({}, (None, 10), "checkpoint")
    assert not caplog.text
    for settings, message in (
        ({**name, "dither": 0.1}, "setting dither is 0.1"),
        ({"num_mel_bins": 10}, "no feature_extractor"),
    ):
        with caplog.at_level(logging.WARNING, "tt_edge"):
            check_extractor(settings, (None, 10), "checkpoint")
        assert "the bundle takes features, and no audio: " in caplog.text
        assert message in caplog.text
    with pytest.raises(
        InvalidInputError, match=r"checkpoint C: preprocessor_config.json makes features \(None, 10\), and"
    ):
        check_extractor(name, (None, 12), "C")
    with pytest.raises(InvalidInputError, match=r"checkpoint C: preprocessor_config.json has num_mel_bins 0"):
        check_extractor({**name, "num_mel_bins": 0}, (None, 10), "C")
