"""The TensorRT session against fakes in host memory, every call of which is checked against the real bindings.

No engine has been executed; what is checked here is all that can be without a GPU. test_cuda uses one.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from tests.bindings.surface import Recorder
from tests.models.decoders import compiled
from tests.runtime.engine import fake_tensorrt
from tests.runtime.engine.fake_session import Fake, fake, names
from tests.runtime.engine.test_reference_session import PROMPTS, from_scratch
from tt_edge import cuda
from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE, ONE_PROFILE
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.tensorrt_api import TensorRT

__all__ = ["fake"]


def test_generates_what_the_reference_does(fake):
    with fake.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(10))
        assert session.word == "executed by TensorRT-RTX 1.6.1 on Fake GPU"
    assert [r.new_token_ids for r in results] == [from_scratch(p, 10) for p in PROMPTS]
    assert set(fake.engine.executed) == {CONTEXT_PROFILE, GENERATION_PROFILE}


def test_waits_once_a_step_and_allocates_nothing_more(fake):
    with fake.open() as session:
        memory, waits = set(fake.cuda.memory), fake.cuda.synchronized
        generate(session, PROMPTS[:2], GenerationConfig(10))
        # Ten tokens of the one-token prompt; beside it, a prompt in one step of its own.
        assert fake.cuda.synchronized - waits == len(fake.engine.executed) == 11
        assert set(fake.cuda.memory) == memory
        # A block of inputs for each profile, and the logits, on both sides; the cache and the activations on the device.
        assert len(memory) == 2 * (2 + 1) + len(fake.contract.kv_cache) + 1


def test_short_inputs_take_the_generation_profile(fake):
    with fake.open() as session:
        session.reset(2)
        for width in (4, 5, 1):
            session.forward(np.zeros((2, width), np.int64), np.array([width, 1]))
    assert fake.engine.executed == [GENERATION_PROFILE, CONTEXT_PROFILE, GENERATION_PROFILE]


def test_one_profile_serves_all(monkeypatch, tmp_path):
    network, contract = compiled()
    fake = Fake(monkeypatch, tmp_path, network, replace(contract, phases=ONE_PROFILE))
    with fake.open() as session:
        results = generate(session, PROMPTS, GenerationConfig(5))
    assert [r.new_token_ids for r in results] == [from_scratch(p, 5) for p in PROMPTS]
    assert set(fake.engine.executed) == {CONTEXT_PROFILE}


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


def test_the_calls_of_a_prefill_and_three_decode_steps(fake):
    with fake.open() as session:
        session.reset(1)
        steps = []
        for width in (6, 1, 1, 1):
            fake.calls.clear()
            session.forward(np.zeros((1, width), np.int64), np.array([width]))
            steps.append(names(fake.calls))
    shapes = ["set_input_shape"] * len(fake.contract.inputs)
    work = ["cudaMemcpyAsync", "execute_async_v3", "cudaMemcpyAsync"]
    wait = "cudaStreamSynchronize"
    assert steps == [
        [*shapes, *work, wait],
        [*shapes, *work, wait],
        [
            *("cudaStreamBeginCapture", *work, "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"),
            *("cudaGraphLaunch", wait),
        ],
        ["cudaGraphLaunch", wait],
    ]


def test_the_calls_of_opening_and_closing(fake):
    session = fake.open()
    opening = [name for name in names(fake.calls) if name not in ("cudaMalloc", "cudaHostAlloc", "cudaMemsetAsync")]
    tensors = len(fake.contract.inputs) + len(fake.contract.outputs)
    make = ["create_execution_context", "set_optimization_profile_async", "set_device_memory"]
    assert opening == [
        *("cudaStreamCreateWithFlags", "Runtime", "deserialize_cuda_engine", *["get_tensor_name"] * tensors),
        *["get_tensor_dtype", "get_tensor_shape"] * tensors,
        *["get_device_memory_size_for_profile_v2"] * 2,
        *(make + make),
        *["set_tensor_address"] * 2 * tensors,
        "cudaStreamSynchronize",
    ]
    fake.calls.clear()
    session.close()
    assert set(names(fake.calls)) == {"cudaFree", "cudaFreeHost", "cudaStreamDestroy"}
    assert names(fake.calls)[-1] == "cudaStreamDestroy"


def test_addresses(fake):
    with fake.open():
        pass
    bound = [arguments for name, arguments in fake.calls if name == "set_tensor_address"]
    context, generation = dict(bound[: len(bound) // 2]), dict(bound[len(bound) // 2 :])
    fed = {"input_ids", "position_ids", "write_indices"}
    assert {name for name in context if context[name] != generation[name]} == fed
    assert len({*context.values(), *generation.values()}) == len(set(context.values())) + len(fed)
    addresses = context
    for pair in fake.contract.kv_cache:
        assert addresses.pop(pair.present) == addresses[pair.past]
    assert len(set(addresses.values())) == len(addresses)
    memory = [arguments for name, arguments in fake.calls if name == "set_device_memory"]
    assert memory == [(memory[0][0], 4096)] * 2  # the larger of the two profiles', shared


def test_keys_and_values_are_read_and_written_as_the_reference_does(fake):
    prompt = PROMPTS[3][:6]
    width = len(prompt)
    with ReferenceSession(fake.network, fake.contract) as reference, fake.open() as session:
        kept = []
        for one in (reference, session):
            one.reset(2)
            one.forward(np.array([prompt, prompt]), np.array([0, width]))
            kept.append(one.read_kv(1, prompt[:4]))
        for name, data in kept[0].tensors.items():
            np.testing.assert_array_equal(kept[1].tensors[name], data)
        expected = session.forward(np.array([[0], [1]]), np.array([0, 1]))[1].copy()
        session.reset(2)
        session.write_kv(0, kept[1])
        session.forward(np.array([prompt[4:], prompt[4:]]), np.array([width - 4, 0]))
        got = session.forward(np.array([[1], [0]]), np.array([1, 0]))[0].copy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("logits", {"dtype": DType.FLOAT16}),
        ("logits", {"shape": ("batch", 1, 8)}),
        ("logits", {"shape": (1,)}),
        ("input_ids", {"dtype": DType.FLOAT32}),
        ("cache", {"shape": ("batch", 1, 8, 16)}),
    ],
)
def test_an_engine_of_other_types_or_sizes_than_the_contract(fake, name, change):
    """Buffers have the contract's sizes, and TensorRT would write beyond them."""
    name = fake.contract.kv_cache[0].past if name == "cache" else name
    fake.engine.specs[name] = replace(fake.engine.specs[name], **change)
    with pytest.raises(
        EngineError, match=rf"sm89.engine has {name} as .*, and the bundle's contract as .*; compile the"
    ):
        fake.open()
    assert fake.cuda.memory == {}
    assert fake.cuda.streams == 0


@pytest.mark.parametrize(
    ("offset", "pitch", "runs"), [(0, 8, 9), (57, 8, 1), (-1, 8, 1), (2**40, 8, 1), (0, 4, 2), (0, 2**40, 2)]
)
def test_copies_beyond_a_buffer_never_reach_cuda(fake, offset, pitch, runs):
    """CUDA checks no bounds: such a copy would read or write what lies behind."""
    with closing(cuda.Stream()) as stream, closing(cuda.Buffer(64)) as buffer:
        inside = np.arange(64, dtype=np.uint8).reshape(8, 8)
        buffer.copy_runs_from(inside, 0, 8, stream)
        host = np.zeros((runs, 8), np.uint8)
        for copy in (buffer.copy_runs_from, buffer.copy_runs_to):
            with pytest.raises(EngineError, match=r"^a copy .*; compile the model again"):
                copy(host, offset, pitch, stream)
        too_much = np.zeros(65, np.uint8)
        for whole in (buffer.copy_from, buffer.copy_to):
            with pytest.raises(EngineError, match="ends at byte 65 of a buffer of 64"):
                whole(too_much, stream)
        back = np.zeros_like(inside)
        buffer.copy_runs_to(back, 0, 8, stream)
        np.testing.assert_array_equal(back, inside)
    assert not host.any()
    assert names(fake.calls).count("cudaMemcpy2DAsync") == 2


def test_a_stripped_engine_gets_its_weights(fake):
    fake.engine.missing = set(fake.network.weights)
    with fake.open(weights=fake.network.weights) as session:
        results = generate(session, PROMPTS, GenerationConfig(5))
    assert [r.new_token_ids for r in results] == [from_scratch(p, 5) for p in PROMPTS]
    assert names(fake.calls).index("refit_cuda_engine") < names(fake.calls).index("create_execution_context")


def test_weights_that_are_missing_or_refused(fake):
    name, array = next(iter(fake.network.weights.items()))
    fake.engine.missing = {name}
    with pytest.raises(EngineError, match=f"lacks the weights '{name}', and so does the bundle"):
        fake.open(weights={})
    with pytest.raises(EngineError, match=f"refuses the weights '{name}' of sm89.engine"):
        fake.open(weights={name: array.reshape(-1)[1:]})
    assert fake.cuda.memory == {}


@pytest.mark.parametrize("allowed", [False, True])
def test_code_in_an_engine_runs_only_where_the_manifest_says_that_it_has_some(fake, allowed):
    with fake.open(holds_host_code=allowed):
        assert fake.module.runtime.engine_host_code_allowed is allowed
    assert ("engine_host_code_allowed =" in names(fake.calls)) == allowed


class TestTheRecorder:
    """What the bindings lack must fail, or the tests above would prove nothing."""

    @pytest.fixture
    def recorder(self, fake):
        engine = fake_tensorrt.FakeEngine(fake.network, fake.contract)
        context = fake_tensorrt.FakeContext(engine)
        context.profile, context.no_such_call = 0, lambda: True
        return Recorder(context, fake.trt.IExecutionContext, fake.trt, [])

    def test_a_call_that_does_not_exist(self, recorder):
        with pytest.raises(AssertionError, match="has no no_such_call"):
            recorder.no_such_call()

    @pytest.mark.parametrize("arguments", [(), ("input_ids",), ("input_ids", 3), (0, (1, 1)), ("input_ids", (1, 1), 2)])
    def test_arguments_that_do_not_fit(self, recorder, arguments):
        with pytest.raises(AssertionError, match="fit none of"):
            recorder.set_input_shape(*arguments)

    def test_a_property_that_does_not_exist_or_is_read_only(self, recorder):
        with pytest.raises(AssertionError, match="has no property profile"):
            recorder.profile = 1
        with pytest.raises(AssertionError, match="engine is read-only"):
            recorder.engine = None

    def test_cuda_functions(self, fake):
        with pytest.raises(TypeError, match="missing a required argument"):
            cuda.runtime().cudaMemcpyAsync(1, 2, 3)


@pytest.mark.parametrize("flavour", ["tensorrt"])
def test_standard_tensorrt_has_the_same_calls(flavour):
    pytest.importorskip("tensorrt_bindings")  # torch_tensorrt may stand in for "tensorrt" with the RTX package
    trt = pytest.importorskip(flavour)
    for one in (
        fake_tensorrt.FakeRuntime,
        fake_tensorrt.FakeEngine,
        fake_tensorrt.FakeContext,
        fake_tensorrt.FakeRefitter,
    ):
        public = {name for name in vars(one) if not name.startswith("_") and name != "REAL"}
        assert public <= set(dir(getattr(trt, one.REAL)))


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
        "cudaHostAlloc": (4, cuda.runtime().cudaHostAllocDefault),
        "cudaStreamBeginCapture": (4096, cuda.runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
        "cudaMemcpy2DAsync": (4096, 8, host.ctypes.data, 4, 4, 1, kind, 4096),
    }.items():
        with pytest.raises(EngineError, match=f"{name} failed"):
            cuda.call(name, *arguments)
