"""The TensorRT session against fakes in host memory, and the fakes against the real bindings.

No engine has been executed; what is checked here is all that can be without a GPU. test_cuda uses one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.compile.compiling import compiled as compiled_model
from tests.runtime import fake_tensorrt
from tests.runtime.decoders import compiled
from tests.runtime.test_reference_session import PROMPTS, from_scratch
from tests.tiny_models import tiny_model
from tt_edge import cuda
from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE
from tt_edge.errors import EngineError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.generation import generate
from tt_edge.runtime.reference_session import ReferenceSession
from tt_edge.runtime.tensorrt_session import TensorRTSession
from tt_edge.tensorrt_api import Flavour, Log, TensorRT


class Fake:
    """A session over the fakes."""

    def __init__(self, monkeypatch, tmp_path, network=None, contract=None, **limits) -> None:
        self.cuda = fake_tensorrt.FakeCuda()
        monkeypatch.setattr(cuda, "runtime", lambda: self.cuda)
        monkeypatch.setattr(TensorRT, "logger", None)
        monkeypatch.setattr(TensorRT, "log", Log())
        self.network, self.contract = (network, contract) if network else compiled(**limits)
        self.engine = fake_tensorrt.FakeEngine(self.network, self.contract)
        self.file = tmp_path / "sm89.engine"
        self.file.write_bytes(b"engine")

    def open(self) -> TensorRTSession:
        module = fake_tensorrt.FakeModule(self.engine)
        return TensorRTSession(self.file, self.contract, TensorRT(Flavour.RTX, module, "1.6.1"))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    return Fake(monkeypatch, tmp_path)


def test_generates_what_the_reference_does(fake):
    with fake.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(10))
        assert session.word == "executed by TensorRT-RTX 1.6.1 on Fake GPU"
    assert [r.new_token_ids for r in results] == [from_scratch(p, 10) for p in PROMPTS]
    assert set(fake.engine.executed) == {CONTEXT_PROFILE, GENERATION_PROFILE}


def test_waits_once_a_step_and_allocates_nothing_more(fake):
    with fake.open() as session:
        memory, waits = len(fake.cuda.memory), fake.cuda.synchronized
        generate(session, PROMPTS[:2], GenerationConfig(10))
        assert fake.cuda.synchronized - waits == len(fake.engine.executed) == 10
        assert len(fake.cuda.memory) == memory == len(fake.contract.inputs) + 1  # and logits


def test_short_inputs_take_the_generation_profile(fake):
    with fake.open() as session:
        session.reset(2)
        for width in (4, 5, 1):
            session.forward(np.zeros((2, width), np.int64), np.array([width, 1]))
    assert fake.engine.executed == [GENERATION_PROFILE, CONTEXT_PROFILE, GENERATION_PROFILE]


def test_one_profile_serves_all(monkeypatch, tmp_path):
    network, contract = compiled()
    fake = Fake(monkeypatch, tmp_path, network, replace(contract, single_profile=True))
    with fake.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(5))
    assert [r.new_token_ids for r in results] == [from_scratch(p, 5) for p in PROMPTS]
    assert set(fake.engine.executed) == {CONTEXT_PROFILE}


@pytest.mark.parametrize("cache", ["none", "static_v1", "static_v2"])
def test_a_cache_that_goes_through_the_network(monkeypatch, tmp_path, cache):
    """Two buffers change places; rows of unequal length make their steps one by one, in their own part of them."""
    converted = compiled_model(tiny_model("llama"), backend="sdpa", cache=cache)
    fake = Fake(monkeypatch, tmp_path, converted.network, converted.contract)
    with ReferenceSession(converted.network, converted.contract) as session:
        want = generate(session, PROMPTS, GenerationConfig(6))
    with fake.open() as session:
        memory = len(fake.cuda.memory)
        got = generate(session, PROMPTS, GenerationConfig(6))
        assert len(fake.cuda.memory) == memory
    assert [r.new_token_ids for r in got] == [r.new_token_ids for r in want]


def test_close_frees_everything_twice_over(fake):
    session = fake.open()
    session.close()
    session.close()
    assert fake.cuda.memory == {}
    assert fake.cuda.streams == 0


def test_failures_while_opening_free_everything(fake):
    fake.engine.names[0] = "tokens"
    with pytest.raises(EngineError, match=r"sm89\.engine has other inputs and outputs .*\(input_ids, tokens\)"):
        fake.open()
    fake.engine = None
    TensorRT.log.record("ERROR", "built for\nanother GPU")
    with pytest.raises(EngineError, match=r"does not load sm89\.engine on Fake GPU \(built for another GPU\); build"):
        fake.open()
    fake.cuda.left = 3
    fake.engine = fake_tensorrt.FakeEngine(fake.network, fake.contract)
    with pytest.raises(EngineError, match=r"cudaMalloc failed \(out of memory\)"):
        fake.open()
    assert fake.cuda.memory == {}
    assert fake.cuda.streams == 0


def public(thing: type) -> set[str]:
    return {name for name in vars(thing) if not name.startswith("_")}


@pytest.mark.parametrize("flavour", ["tensorrt_rtx", "tensorrt"])
def test_tensorrt_has_what_the_fakes_have(flavour):
    if flavour == "tensorrt":
        pytest.importorskip("tensorrt_bindings")  # torch_tensorrt may stand in for "tensorrt" with the RTX package
    trt = pytest.importorskip(flavour)
    assert public(fake_tensorrt.FakeModule) <= set(dir(trt))
    assert public(fake_tensorrt.FakeRuntime) <= set(dir(trt.Runtime))
    assert public(fake_tensorrt.FakeEngine) <= set(dir(trt.ICudaEngine))
    assert public(fake_tensorrt.FakeContext) <= set(dir(trt.IExecutionContext))
    assert hasattr(trt.ExecutionContextAllocationStrategy, "ON_PROFILE_CHANGE")


def test_cuda_has_what_the_fake_has():
    real = pytest.importorskip("cuda.bindings.runtime")
    for name, value in vars(fake_tensorrt.FakeCuda).items():
        if name.startswith("cuda"):
            assert hasattr(real, name)
            for member in vars(value) if hasattr(value, "__dict__") and not callable(value) else ():
                assert hasattr(getattr(real, name), member)


def test_real_cuda_takes_our_arguments():
    """Without a driver every call fails with CUDA's reason; wrong argument types would be a TypeError."""
    pytest.importorskip("cuda.bindings.runtime")
    try:
        cuda.compute_capability()
    except EngineError as error:
        assert "cudaGetDevice failed" in str(error)  # noqa: PT017 (a machine with a GPU raises nothing)
    else:
        pytest.skip("this machine has a GPU; the addresses below are made up")
    kind = cuda.runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
    host = np.zeros(4, np.uint8)
    for name, arguments in {
        "cudaGetDeviceProperties": (0,),
        "cudaDeviceGetAttribute": (cuda.runtime().cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor, 0),
        "cudaStreamCreateWithFlags": (cuda.runtime().cudaStreamNonBlocking,),
        "cudaMalloc": (4,),
        "cudaMemsetAsync": (4096, 0, 4, 4096),
        "cudaMemcpyAsync": (4096, host.ctypes.data, 4, kind, 4096),
        "cudaFree": (4096,),
    }.items():
        with pytest.raises(EngineError, match=f"{name} failed"):
            cuda.call(name, *arguments)
