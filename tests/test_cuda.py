"""Device memory on a real GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime import fake_tensorrt
from tests.runtime.decoders import compiled
from tests.runtime.test_reference_session import PROMPTS, from_scratch
from tt_edge import cuda
from tt_edge.errors import EngineError, TTEdgeError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.generation import generate
from tt_edge.runtime.tensorrt_session import TensorRTSession
from tt_edge.tensorrt_api import Flavour, Log, TensorRT


@pytest.fixture(autouse=True)
def gpu():
    try:
        cuda.compute_capability()
    except TTEdgeError as error:
        pytest.skip(str(error))


def test_copies_and_zeros():
    stream, buffer = cuda.Stream(), cuda.Buffer(64)
    there, back = np.arange(16, dtype=np.float32), np.full(16, -1, np.float32)
    buffer.fill_zero(stream)
    buffer.copy_from(there[:8], stream)
    buffer.copy_to(back, stream)
    stream.synchronize()
    assert back.tolist() == [*range(8), *[0] * 8]
    for thing in (buffer, buffer, stream, stream):
        thing.close()


def test_the_gpu_has_a_name():
    assert cuda.compute_capability().startswith("sm")
    assert cuda.device_name().isprintable()


def test_too_much_memory_is_an_error_and_the_next_call_is_none():
    with pytest.raises(EngineError, match="cudaMalloc failed"):
        cuda.Buffer(1 << 60)
    cuda.Buffer(1).close()


class DeviceContext(fake_tensorrt.FakeContext):
    """Takes its inputs from device memory and puts what it computes there."""

    def execute_async_v3(self, stream):
        contract = self.engine.contract
        cuda.call("cudaStreamSynchronize", stream)
        feeds = {spec.name: np.empty(self.shapes[spec.name], spec.dtype.numpy) for spec in contract.inputs}
        kinds = cuda.runtime().cudaMemcpyKind
        for name, array in feeds.items():
            copy = (array.ctypes.data, self.addresses[name], array.nbytes, kinds.cudaMemcpyDeviceToHost)
            cuda.call("cudaMemcpy", *copy)
        results = self.engine.evaluator.run(feeds)
        for name, array in results.items():
            copy = (self.addresses[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
            cuda.call("cudaMemcpy", *copy)
        self.engine.executed.append(self.profile)
        return True


class DeviceEngine(fake_tensorrt.FakeEngine):
    def create_execution_context(self, strategy):
        return DeviceContext(self)


def test_the_session_moves_data_to_the_gpu_and_back(monkeypatch, tmp_path):
    monkeypatch.setattr(TensorRT, "logger", None)
    monkeypatch.setattr(TensorRT, "log", Log())
    network, contract = compiled()
    (tmp_path / "an.engine").write_bytes(b"engine")
    package = TensorRT(Flavour.RTX, fake_tensorrt.FakeModule(DeviceEngine(network, contract)), "1.6.1")
    with TensorRTSession(tmp_path / "an.engine", contract, package) as session:
        results = generate(session, PROMPTS, GenerationConfig(10))
    assert [r.new_token_ids for r in results] == [from_scratch(p, 10) for p in PROMPTS]
