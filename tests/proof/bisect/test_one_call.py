"""Debugging engines: built for real, ahead of time; called through fakes whose every call is checked against the bindings."""

from __future__ import annotations

import io

import numpy as np
import pytest

from tests.bindings.surface import Call, Recorder
from tests.models.decoders import compiled
from tests.network.test_build import captured, contract
from tests.proof.engines import broken
from tests.proof.goldens import golden_of
from tests.runtime.engine import fake_tensorrt
from tt_edge import cuda
from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.network.build import build_engine
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.reference.compare import own_feeds
from tt_edge.proof.bisect.bisection import Bisection
from tt_edge.proof.bisect.case import decoder_case
from tt_edge.proof.bisect.graph import Graph, with_outputs
from tt_edge.proof.bisect.one_call import TensorRTTrial
from tt_edge.proof.bisect.yardstick import Yardstick
from tt_edge.proof.replay import RowResult
from tt_edge.tensorrt_api import Flavour, Log, TensorRT

__all__ = ["captured"]


class DebuggingContext(fake_tensorrt.FakeContext):
    def get_tensor_shape(self, name):
        return self.engine.values(self)[name].shape

    def execute_async_v3(self, stream):
        for name, value in self.engine.values(self).items():
            self._array(name, value.shape, value.dtype)[...] = value
        self.engine.executed.append(self.profile)
        return True


class DebuggingEngine(fake_tensorrt.FakeEngine):
    """What a file of a marked network deserializes to; computes the layer ``wrong`` wrongly."""

    wrong = None

    def create_execution_context(self):
        return DebuggingContext(self)

    def values(self, context):
        arrays = {s.name: context._array(s.name, context.shapes[s.name], s.dtype.numpy) for s in self.contract.inputs}
        evaluator = ReferenceEvaluator(self.network, fold_constants=False)
        for step in evaluator._steps:
            if step.layer.name == self.wrong:
                step.compute = lambda *inputs, compute=step.compute: broken(np.asarray(compute(*inputs)))
        return evaluator.run(own_feeds(arrays))


def row(batch: int, prompt: int, step: int) -> RowResult:
    return RowResult(batch, prompt, 4, 0, 1.0, 6, 0, 1, step)


@pytest.fixture
def case():
    network, contract = compiled()
    return decoder_case("decoder", network, contract, golden_of(network, contract), row(0, 1, 0), None)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A way to call the engine of a network, and the calls that were made."""
    trt = pytest.importorskip("tensorrt_rtx")
    runtime = fake_tensorrt.FakeCuda()
    calls: list[Call] = []
    recorded = Recorder(runtime, pytest.importorskip("cuda.bindings.runtime"), None, calls)
    monkeypatch.setattr(cuda, "runtime", lambda: recorded)
    monkeypatch.setattr(TensorRT, "logger", None)
    monkeypatch.setattr(TensorRT, "log", Log())
    (tmp_path / "a.engine").write_bytes(b"engine")

    def call(case, marked, wrong=None):
        network = with_outputs(case.network, marked)
        engine = DebuggingEngine(network, case.contract)
        engine.wrong = wrong
        module = Recorder(fake_tensorrt.FakeModule(engine), trt, trt, calls)
        trial = TensorRTTrial(
            TensorRT(Flavour.RTX, module, "1.6.1"), case.network, case.contract, case.contract.profiles(), case.feeds, case.profile
        )  # fmt: skip
        call.executed = engine.executed
        return trial.call(CheckedFile.open(tmp_path / "a.engine"), network)

    call.cuda, call.calls = runtime, calls
    return call


def test_outputs_and_marks_are_the_reference_s(case, fake):
    marked = Graph(case.network).markable[5:8]
    values = fake(case, marked)
    want = ReferenceEvaluator(with_outputs(case.network, marked)).run(own_feeds(case.feeds))
    assert values.keys() == want.keys() == {*case.network.outputs, *marked}
    for name, value in want.items():
        np.testing.assert_array_equal(values[name], value)
    assert fake.executed == [CONTEXT_PROFILE]
    assert not fake.cuda.memory, "everything is freed"
    assert fake.cuda.streams == 0


def test_a_cache_is_bound_in_place_and_shown_as_an_output(case, fake):
    fake(case, [])
    addresses = {arguments[0]: arguments[1] for name, arguments in fake.calls if name == "set_tensor_address"}
    for pair in case.contract.kv_cache:
        assert addresses[pair.past] == addresses[pair.present]


def test_a_decode_step_has_the_caches_before_it_and_its_profile(fake):
    network, contract = compiled()
    case = decoder_case("decoder", network, contract, golden_of(network, contract), row(1, 0, 3), None)
    assert case.text == "decode step 3, 1 in the batch"
    assert case.feeds["input_ids"].shape == (1, 1)
    assert case.feeds["write_indices"].tolist() == [5 + 2]
    assert np.abs(case.feeds["past_key_0"]).any(axis=(0, 1, 3)).sum() == 7
    assert case.profile == GENERATION_PROFILE
    fake(case, [])
    assert fake.executed == [GENERATION_PROFILE]


def test_the_search_through_it_finds_a_layer(case, fake):
    graph = Graph(case.network)
    yardstick = Yardstick(case.network, case.feeds, graph.markable)
    wrong = [layer.name for layer in case.network.layers if layer.kind == "ATTENTION"][1]
    verdict = Bisection(case.network, yardstick, lambda marked: fake(case, marked, wrong), case.results).run()
    assert (verdict.fault, [layer.name for layer in verdict.layers]) == ("layer", [wrong])


def test_what_tensorrt_refuses_is_an_error_and_frees_everything(case, fake, monkeypatch):
    monkeypatch.setattr(DebuggingContext, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(EngineError, match=r"refuses a call of a debugging engine.*nothing is known of it then"):
        fake(case, [])
    assert not fake.cuda.memory


@pytest.mark.parametrize("marks", [0, 6])
def test_the_builder_takes_networks_with_marks(captured, tensorrt, marks):
    """TensorRT-RTX, ahead of time: tensors inside are outputs of the engine, beside caches that are updated in place."""
    network = captured[0]
    chosen = [name for name in Graph(network).markable if name not in network.outputs][:marks]
    assert len(chosen) == marks
    destination = io.BytesIO()
    built = build_engine(tensorrt, with_outputs(network, chosen), contract().profiles(), "sm89", destination)
    assert built.bytes == len(destination.getvalue()) > 0
