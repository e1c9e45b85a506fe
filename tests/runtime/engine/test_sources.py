"""Sources of an encoder-decoder in the TensorRT session, over the fakes: where their keys and values are bound."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.bindings.surface import Recorder
from tests.compile.seq2seq.seq2seqs import compiled, texts
from tests.models.tiny_seq2seq import tiny_seq2seq
from tests.runtime.engine.fake_session import Fake, names
from tests.runtime.engine.fake_tensorrt import FakeEngine, FakeModule
from tt_edge.contract import FedBy
from tt_edge.folder import CheckedFile
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine import device_arrays
from tt_edge.runtime.engine.device_arrays import DeviceArray
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward, TensorRTFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.beams import beam_search
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.tensorrt_api import Flavour, TensorRT

FORMS = {
    "in place": {},
    "no cache": {"backend": "sdpa"},
    "two buffers": {"backend": "sdpa", "cache": "static_v1"},
}


@pytest.fixture(scope="module", params=FORMS)
def parts(request):
    """A decoder, and the sources of seven texts of unequal lengths: more than there are slots."""
    encoder, decoder = compiled(tiny_seq2seq("t5"), **FORMS[request.param])
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(0))
    return decoder, [pipeline.source(text) for text in texts(9, 1, 48, 17, 2, 30, 5)]


@pytest.fixture(scope="module")
def encoder():
    return compiled(tiny_seq2seq("t5"))[0]


@pytest.fixture
def fake(parts, monkeypatch, tmp_path):
    decoder, _ = parts
    return Fake(monkeypatch, tmp_path, decoder.network, decoder.contract)


def test_answers_are_those_of_the_reference(parts, fake):
    decoder, sources = parts
    configs = [GenerationConfig(length) for length in (12, 3, 20, 7, 9, 1, 14)]
    starts = [[0]] * len(sources)
    want = generate(ReferenceSession(decoder.network, decoder.contract), starts, configs, sources=sources)
    with fake.open() as session:
        got = generate(session, starts, configs, sources=sources)
    assert [g.new_token_ids for g in got] == [w.new_token_ids for w in want]
    assert len({tuple(g.new_token_ids[:1]) for g in got}) > 1
    if decoder.contract.kv_in_place:
        assert fake.cuda.launches > 0  # also through graphs


def test_beams_are_those_of_the_reference(parts, fake):
    decoder, sources = parts
    config = GenerationConfig(10, num_beams=3)
    reference = ReferenceSession(decoder.network, decoder.contract)
    with fake.open() as session:
        for source in sources[:3]:
            assert beam_search(session, [0], config, source) == beam_search(reference, [0], config, source)


def test_a_call_from_the_second_slot_on_sees_its_own_sources(parts, fake):
    """Slots that begin elsewhere than at the first."""
    decoder, sources = parts
    reference = ReferenceSession(decoder.network, decoder.contract)
    ids, ones = np.array([[5], [7]]), np.ones(2, np.int64)
    with fake.open() as session:
        assert session.starts_anywhere
        for each in (session, reference):
            each.reset(3)
            for slot in range(3):
                each.write_cross(slot, sources[slot].cross, sources[slot].length)
            each.forward(np.array([[4], [5], [6]]), np.ones(3, np.int64))
        for first in (1, 0, 1, 1, 1):  # repeated steps are launched as graphs
            got = session.forward(ids, ones, first=first).copy()
            np.testing.assert_allclose(got, reference.forward(ids, ones, first=first), atol=1e-5)


def test_a_new_source_of_a_slot_replaces_the_old_one(parts, fake):
    decoder, sources = parts
    reference = ReferenceSession(decoder.network, decoder.contract)
    with fake.open() as session:
        for source in (sources[2], sources[1], sources[0]):  # long, then short: nothing of the long one remains
            for each in (session, reference):
                each.reset(1)
                each.write_cross(0, source.cross, source.length)
            got = session.forward(np.array([[0]]), np.array([1])).copy()
            np.testing.assert_allclose(got, reference.forward(np.array([[0]]), np.array([1])), atol=1e-5)


def test_a_step_copies_no_source(parts, fake):
    _, sources = parts
    with fake.open() as session:
        session.reset(1)
        session.write_cross(0, sources[0].cross, sources[0].length)
        fake.calls.clear()
        session.forward(np.array([[0]]), np.array([1]))
        made = names(fake.calls)
    assert "cudaMemcpy2DAsync" not in made  # which writes a source
    fed = len(session.contract.inputs_fed_by(FedBy.STEP))
    assert made.count("cudaMemcpyAsync") <= fed + 1  # and the logits


def test_slots_of_unaligned_sources_are_called_together(parts, fake, monkeypatch):
    """Where a slot's part of a source has no address that TensorRT takes, every call begins at the first slot."""
    decoder, sources = parts
    monkeypatch.setattr("tt_edge.runtime.engine.tensorrt_session.ALIGNMENT", 1 << 20)
    configs = [GenerationConfig(length) for length in (12, 3, 20, 7, 9, 1, 14)]
    starts = [[0]] * len(sources)
    want = generate(ReferenceSession(decoder.network, decoder.contract), starts, configs, sources=sources)
    with fake.open() as session:
        assert not session.starts_anywhere
        got = generate(session, starts, configs, sources=sources)
    assert [g.new_token_ids for g in got] == [w.new_token_ids for w in want]


def test_keys_and_values_stay_on_the_device(encoder, parts, fake, monkeypatch, tmp_path):
    """The encoder's engine writes them to memory of their own, from where they are copied to the slot; nothing passes the host."""
    decoder, _ = parts
    engine = FakeEngine(encoder.network, encoder.contract)
    engine.queue = fake.cuda.queue
    (file := tmp_path / "encoder.engine").write_bytes(b"engine")
    module = Recorder(FakeModule(engine), fake.trt, fake.trt, fake.calls)
    reference = ReferenceSession(decoder.network, decoder.contract)
    plain = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(0))
    monkeypatch.setattr(
        device_arrays, "MAX_BYTES", 5 * sum(s.dtype.nbytes(48 * 4 * 8) for s in encoder.contract.outputs)
    )
    with fake.open() as session:
        network = TensorRTFeedForward(CheckedFile.open(file), encoder.contract, TensorRT(Flavour.RTX, module, "1.6.1"))
        memory = len(fake.cuda.memory)
        pipeline = SourcePipeline(network, DecoderStart(0))
        for text in texts(9, 48, 3, 20):  # longer and shorter ones in the same memory
            fake.calls.clear()
            source = pipeline.source(text)
            session.reset(1)
            session.write_cross(0, source.cross, source.length)
            kinds = [arguments[-2] for name, arguments in fake.calls if name == "cudaMemcpy2DAsync"]
            assert set(kinds) == {fake.cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice}
            copies = [arguments[-2] for name, arguments in fake.calls if name == "cudaMemcpyAsync"]
            assert set(copies) == {fake.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice}  # the text
            reference.reset(1)
            wanted = plain.source(text)
            reference.write_cross(0, wanted.cross, wanted.length)
            got = session.forward(np.array([[0]]), np.array([1])).copy()
            np.testing.assert_allclose(got, reference.forward(np.array([[0]]), np.array([1])), atol=1e-5)
        names = len(encoder.contract.outputs)
        assert len(fake.cuda.memory) == memory + names * 2  # the latest source, and the one before
        kept = [pipeline.source(text) for text in texts(*[5] * 9)]
        assert {type(source.cross["cross_key_0"]) for source in kept} == {DeviceArray, np.ndarray}  # beyond the budget
        for each in (kept[0], kept[-1]):
            wanted = plain.source(texts(*[5] * 9)[0 if each is kept[0] else -1])
            for name, array in each.on_host().items():
                np.testing.assert_allclose(array, wanted.cross[name], atol=1e-5)
        network.close()
        del source, kept, each, pipeline
    gc.collect()
    assert not fake.cuda.memory
