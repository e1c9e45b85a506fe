"""The golden set of an encoder-decoder: small, true to the comparison, and enough to find a wrong layer of either network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.compile.seq2seq.seq2seqs import compiled
from tests.models.tiny_seq2seq import tiny_seq2seq
from tests.proof.engines import FaultyEngine, broken
from tt_edge.bundle.manifest import DECODER, ENCODER
from tt_edge.compile.parity.golden import GoldenMaker, golden_bytes
from tt_edge.compile.parity.seq2seq.logits import Seq2SeqReference, check_seq2seq
from tt_edge.config import Precision
from tt_edge.errors import BundleError
from tt_edge.folder import CheckedFile
from tt_edge.network.storage import read_weights
from tt_edge.proof.bisect.bisection import Bisection
from tt_edge.proof.bisect.case import decoder_case, encoder_case, first_failure
from tt_edge.proof.bisect.graph import Graph
from tt_edge.proof.bisect.yardstick import Yardstick
from tt_edge.proof.golden import GoldenSet
from tt_edge.proof.replay import replay
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart


def opened(parts, wrong=""):
    """The session of the decoder and what encodes, where the layer ``wrong`` is computed wrongly."""
    encoder, decoder = parts
    session = ReferenceSession(decoder.network, decoder.contract)
    network = ReferenceFeedForward(encoder.network, encoder.contract)
    for step in (*session._evaluator._steps, *network._evaluator._steps):
        if step.layer.name == wrong:
            step.compute = lambda *inputs, compute=step.compute: broken(np.asarray(compute(*inputs)))
    return session, SourcePipeline(network, DecoderStart(2))


@pytest.fixture(scope="module", params=["bart", "whisper"])
def case(request, tmp_path_factory):
    """Both networks, the report, and the golden set as it is read from a file: of texts, and of speech (pages are like it)."""
    name = request.param
    model = tiny_seq2seq(name)
    parts, maker = compiled(model), GoldenMaker()
    _, pipeline = opened(parts)
    reference = Seq2SeqReference(model, Precision.FP32)
    network, contract = parts[1].network, parts[1].contract
    report = check_seq2seq(reference, pipeline, network, contract, Precision.FP32, new_tokens=6, maker=maker)
    golden, note = maker.made(report)
    assert note == ""
    file = tmp_path_factory.mktemp(name) / "golden.safetensors"
    file.write_bytes(golden_bytes(golden))
    return parts, report, golden, GoldenSet.from_tensors(read_weights(CheckedFile.open(file)))


def test_it_is_read_as_it_was_written(case):
    """Numbers of speech and pages are bytes in the file, and nothing is lost."""
    _, _, golden, again = case
    assert [prompt.source for prompt in again.prompts] == [0, 1, 2]
    for one, other in zip(golden.sources, again.sources, strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        for name, array in one.inputs.items():
            np.testing.assert_array_equal(array, other.inputs[name])
            is_ids = name == "source_ids"
            stored = golden.tensors()[f"source.0.input.{name}"]
            assert (array.dtype.name, stored.dtype.name) == (("int64",) * 2 if is_ids else ("float32", "int8"))


def test_a_replay_finds_what_the_comparison_found(case):
    parts, report, _, golden = case
    session, pipeline = opened(parts)
    result = replay(session, golden, pipeline=pipeline)
    assert result.passed, result.render()
    assert golden.batches == ((0, 1, 2), (0,))
    assert [row.tokens for row in result.rows] == [row.tokens for row in report.rows]
    assert len(result.features) == len(report.features) == 3
    assert max(each.relative_error for each in result.features) < 1e-5
    assert "keys and values of source 2: relative error" in result.render()


@pytest.mark.parametrize("part", [ENCODER, DECODER])
def test_a_wrong_layer_is_found(case, part):
    parts, _, _, golden = case
    network = parts[part == DECODER].network
    kind = "ATTENTION" if part == DECODER else "MATRIX_MULTIPLY"
    layers = [layer.name for layer in network.layers if layer.kind == kind]
    wrong = layers[len(layers) // 2]
    session, pipeline = opened(parts, wrong)
    result = replay(session, golden, pipeline=pipeline)
    assert (result.passed, result.features_passed) == (False, part == DECODER)
    _, right = opened(parts)
    given = (part, network, parts[part == DECODER].contract, golden)
    found = (
        encoder_case(*given, 0, right) if part == ENCODER else decoder_case(*given, first_failure(result), None, right)
    )
    yardstick = Yardstick(network, found.feeds, Graph(network).markable)
    engine = FaultyEngine(network, found.feeds, wrong)
    verdict = Bisection(network, yardstick, engine, found.results).run()
    assert [layer.name for layer in verdict.layers] == [wrong]


def test_a_set_of_another_kind_is_refused(case):
    parts, _, _, golden = case
    session, pipeline = opened(parts)
    without = [dataclasses.replace(prompt, source=None) for prompt in golden.prompts]
    for other, given in ((dataclasses.replace(golden, prompts=tuple(without)), pipeline), (golden, None)):
        with pytest.raises(BundleError, match="the golden set is of another kind of model"):
            replay(session, other, pipeline=given)
    renamed = dataclasses.replace(golden.sources[0], inputs={"other": np.ones(3, np.int64)})
    with pytest.raises(BundleError, match="the golden set has sources that the encoder does not take"):
        replay(session, dataclasses.replace(golden, sources=(renamed, *golden.sources[1:])), pipeline=pipeline)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({"source.0.norms": tensors["source.0.norms"][1:]}),
        lambda tensors: tensors.update(
            {name: tensors[name].astype(np.float32) for name in tensors if ".input." in name}
        ),
        lambda tensors: tensors.update({name: tensors[name][:0] for name in tensors if ".input." in name}),
        lambda tensors: [tensors.pop(name) for name in [*tensors] if name.startswith("source.1.input.")],
        lambda tensors: tensors.pop("source.2.norms"),
    ],
)
def test_malformed_sources_are_refused(case, change):
    tensors = case[2].tensors()
    change(tensors)
    with pytest.raises(BundleError, match=r"golden\.safetensors is malformed"):
        GoldenSet.from_tensors(tensors)


def test_sources_that_are_too_large_are_left_out(case, monkeypatch):
    _parts, report, golden, _ = case
    maker = GoldenMaker()
    maker._sources, maker._batches = list(golden.sources), list(golden.batches)
    maker._prompts = {((), (number,)): prompt for number, prompt in enumerate(golden.prompts)}
    size = dataclasses.replace(golden, sources=golden.sources[:2], prompts=golden.prompts[:2]).nbytes
    monkeypatch.setattr("tt_edge.compile.parity.golden.MAX_BYTES", size + 1)
    made, note = maker.made(report)
    assert (len(made.sources), len(made.prompts), made.batches) == (2, 2, ((0, 1), (0,)))
    assert note.startswith("1 sources are left out of the golden set")
