"""Device memory on a real GPU; skipped where there is none."""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import pytest

from tests.runtime import fake_tensorrt
from tt_edge import cuda
from tt_edge.contract import EngineContract, KVPair, TensorSpec
from tt_edge.dtypes import DType
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


# Stands in for an engine: a "model" whose next token follows from all tokens so far, which it keeps in its cache. One
# thread a row; every element of the logits is written.
KERNEL = rb"""
extern "C" __global__ void toy(
    const long long* ids, const int* write_indices, float* cache, float* logits, int width, int capacity, int depth, int vocab
) {
    int row = blockIdx.x;
    for (int step = 0; step < width; ++step) {
        int place = write_indices[row] + step;
        cache[(row * capacity + place) * depth] = (float)ids[row * width + step];
        int hash = 0;
        for (int i = 0; i <= place; ++i) hash = (hash * 31 + (int)cache[(row * capacity + i) * depth] + 1) % 1009;
        for (int token = 0; token < vocab; ++token)
            logits[(row * width + step) * vocab + token] = token == hash % vocab ? 1.0f : 0.0f;
    }
}
"""
VOCABULARY, CAPACITY, DEPTH = 97, 64, 4


def next_token(tokens: list[int]) -> int:
    value = 0
    for token in tokens:
        value = (value * 31 + token + 1) % 1009
    return value % VOCABULARY


def continuation(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def toy_contract() -> EngineContract:
    cache = ("batch", 1, CAPACITY, DEPTH)
    return EngineContract(
        inputs=(
            TensorSpec("input_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("position_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("write_indices", DType.INT32, ("batch",)),
            TensorSpec("past_key_0", DType.FLOAT32, cache),
        ),
        outputs=(
            TensorSpec("logits", DType.FLOAT32, ("batch", "sequence", VOCABULARY)),
            TensorSpec("present_key_0", DType.FLOAT32, cache),
        ),
        kv_cache=(KVPair("past_key_0", "present_key_0"),),
        max_batch=3,
        max_input_len=16,
        max_seq_len=CAPACITY,
        vocab_size=VOCABULARY,
    )


def checked(result):
    error, *values = result
    assert int(error) == 0, error
    return values[0] if values else None


@pytest.fixture(scope="module")
def kernel():
    """The kernel above, compiled for the GPU that is here."""
    driver, nvrtc = (pytest.importorskip(f"cuda.bindings.{name}") for name in ("driver", "nvrtc"))
    cuda.call("cudaFree", 0)  # makes the context
    program = checked(nvrtc.nvrtcCreateProgram(KERNEL, b"toy.cu", 0, [], []))
    target = f"--gpu-architecture=sm_{cuda.compute_capability()[2:]}".encode()
    checked(nvrtc.nvrtcCompileProgram(program, 1, [target]))
    code = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
    checked(nvrtc.nvrtcGetCUBIN(program, code))
    module = checked(driver.cuModuleLoadData(code))
    function = checked(driver.cuModuleGetFunction(module, b"toy"))

    def launch(rows, stream, *arguments):
        kinds = (ctypes.c_void_p,) * 4 + (ctypes.c_int,) * 4
        checked(driver.cuLaunchKernel(function, rows, 1, 1, 1, 1, 1, 0, stream, (arguments, kinds), 0))

    return launch


class ToyContext(fake_tensorrt.FakeContext):
    """Launches the kernel on the addresses and shapes that it was given, as TensorRT would its own."""

    def execute_async_v3(self, stream):
        rows, width = self.shapes["input_ids"]
        addresses = [self.addresses[name] for name in ("input_ids", "write_indices", "past_key_0", "logits")]
        assert self.addresses["past_key_0"] == self.addresses["present_key_0"]
        self.engine.launch(rows, stream, *addresses, width, CAPACITY, DEPTH, VOCABULARY)
        return True


class ToyEngine(fake_tensorrt.FakeEngine):
    def __init__(self, launch) -> None:
        self.contract, self.launch, self.missing = toy_contract(), launch, set()
        self.names = [spec.name for spec in (*self.contract.inputs, *self.contract.outputs)]

    def create_execution_context(self, strategy):
        return ToyContext(self)


@pytest.fixture
def session(monkeypatch, tmp_path, kernel):
    monkeypatch.setattr(TensorRT, "logger", None)
    monkeypatch.setattr(TensorRT, "log", Log())
    (tmp_path / "an.engine").write_bytes(b"engine")
    package = TensorRT(Flavour.RTX, fake_tensorrt.FakeModule(ToyEngine(kernel)), "1.6.1")
    with TensorRTSession(tmp_path / "an.engine", toy_contract(), package) as opened:
        yield opened


@pytest.fixture
def calls(monkeypatch):
    """Counts of the CUDA functions that are called."""
    counts: Counter[str] = Counter()
    call = cuda.call

    def counting(name, *arguments):
        counts[name] += 1
        return call(name, *arguments)

    monkeypatch.setattr(cuda, "call", counting)
    return counts


PROMPTS = [list(range(n, 3 * n, 2)) for n in (5, 1, 12)]


def test_tokens_through_graphs(session, calls):
    """Ragged prompts, then decode steps that are captured once and launched from then on."""
    results = generate(session, PROMPTS, GenerationConfig(20))
    assert [r.new_token_ids for r in results] == [continuation(p, 20) for p in PROMPTS]
    assert calls["cudaStreamBeginCapture"] == calls["cudaGraphInstantiate"] == 1
    assert calls["cudaGraphLaunch"] == 18  # a prefill, a decode step with new shapes, and these
    assert calls["cudaMalloc"] == calls["cudaHostAlloc"] == 0


def test_a_decode_step_is_a_launch_and_a_wait(session, calls):
    session.reset(2)
    for _ in range(3):
        session.forward(np.ones((2, 1), np.int64), np.ones(2, np.int64))
    calls.clear()
    session.forward(np.ones((2, 1), np.int64), np.ones(2, np.int64))
    assert calls == {"cudaGraphLaunch": 1, "cudaStreamSynchronize": 1}


def test_rows_that_finish_early_and_a_batch_that_shrinks(session):
    scheduler_results = [generate(session, PROMPTS[:n], GenerationConfig(6)) for n in (3, 1, 2)]
    for results in scheduler_results:
        for prompt, result in zip(PROMPTS, results, strict=False):
            assert result.new_token_ids == continuation(prompt, 6)


def test_a_prefix_is_read_from_one_row_and_written_to_another(session):
    prompt = PROMPTS[2]
    session.reset(2)
    session.forward(np.array([prompt, prompt]), np.array([len(prompt), 0]))
    kept = session.read_kv(0, prompt[:8])
    stored = kept.tensors["past_key_0"].view(np.float32)[0, :, 0]
    assert stored.tolist() == prompt[:8]
    session.reset(3)
    session.write_kv(2, kept)
    logits = session.forward(np.array([prompt[8:]] * 3), np.array([0, 0, len(prompt) - 8]))
    assert logits[2].argmax() == next_token(prompt)


def test_nothing_is_left_on_the_device(monkeypatch, tmp_path, kernel):
    monkeypatch.setattr(TensorRT, "logger", None)
    monkeypatch.setattr(TensorRT, "log", Log())
    (tmp_path / "an.engine").write_bytes(b"engine")
    package = TensorRT(Flavour.RTX, fake_tensorrt.FakeModule(ToyEngine(kernel)), "1.6.1")
    used = []
    for _ in range(4):
        with TensorRTSession(tmp_path / "an.engine", toy_contract(), package) as opened:
            generate(opened, PROMPTS, GenerationConfig(5))
        used.append(cuda.memory_in_use())
    assert used[1] == used[-1]
