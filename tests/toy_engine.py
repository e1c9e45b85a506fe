"""A stand-in for an engine on a real GPU: a kernel of a few lines, behind the fakes of TensorRT's classes."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime import fake_tensorrt
from tt_edge import cuda
from tt_edge.contract import EngineContract, KVPair, TensorSpec
from tt_edge.dtypes import DType
from tt_edge.runtime.tensorrt_session import TensorRTSession
from tt_edge.tensorrt_api import Flavour, TensorRT

# A "model" whose next token follows from all tokens so far, which it keeps in its cache. One thread a row; every element
# of the logits is written.
KERNEL = rb"""
extern "C" __global__ void toy(
    const long long* ids, const int* write_indices, float* cache, float* logits, int width, int capacity, int depth, int vocab
) {
    int row = blockIdx.x;
    for (int step = 0; step < width; ++step) {
        int place = write_indices[row] + step, hash = 0;
        if (threadIdx.x == 0) cache[(row * capacity + place) * depth] = (float)ids[row * width + step];
        __syncthreads();
        for (int i = 0; i <= place; ++i) hash = (hash * 31 + (int)cache[(row * capacity + i) * depth] + 1) % 1009;
        for (int token = threadIdx.x; token < vocab; token += blockDim.x)
            logits[(row * width + step) * vocab + token] = token == hash % vocab ? 1.0f : 0.0f;
    }
}
"""
VOCABULARY, CAPACITY, DEPTH = 97, 64, 4


def next_token(tokens: list[int]) -> int:
    """The kernel's arithmetic."""
    value = 0
    for token in tokens:
        value = (value * 31 + token + 1) % 1009
    return value % VOCABULARY


def continuation(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def contract(vocabulary: int) -> EngineContract:
    cache = ("batch", 1, CAPACITY, DEPTH)
    return EngineContract(
        inputs=(
            TensorSpec("input_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("position_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("write_indices", DType.INT32, ("batch",)),
            TensorSpec("past_key_0", DType.FLOAT32, cache),
        ),
        outputs=(
            TensorSpec("logits", DType.FLOAT32, ("batch", "sequence", vocabulary)),
            TensorSpec("present_key_0", DType.FLOAT32, cache),
        ),
        kv_cache=(KVPair("past_key_0", "present_key_0"),),
        max_batch=3,
        max_input_len=16,
        max_seq_len=CAPACITY,
        vocab_size=vocabulary,
    )


def checked(result):
    error, *values = result
    assert int(error) == 0, error
    return values[0] if values else None


def compile_kernel() -> Callable[..., None]:
    """The kernel for the GPU that is here: ``launch(rows, stream, *arguments)``."""
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
        checked(driver.cuLaunchKernel(function, rows, 1, 1, 256, 1, 1, 0, stream, (arguments, kinds), 0))

    return launch


class ToyContext(fake_tensorrt.FakeContext):
    """Launches the kernel on the addresses and shapes that it was given, as TensorRT would its own."""

    def execute_async_v3(self, stream):
        rows, width = self.shapes["input_ids"]
        addresses = [self.addresses[name] for name in ("input_ids", "write_indices", "past_key_0", "logits")]
        assert self.addresses["past_key_0"] == self.addresses["present_key_0"]
        self.engine.launch(rows, stream, *addresses, width, CAPACITY, DEPTH, self.engine.contract.vocab_size)
        return True


class ToyEngine(fake_tensorrt.FakeEngine):
    def __init__(self, launch: Callable[..., None], made_for: EngineContract) -> None:
        self.contract, self.launch, self.missing = made_for, launch, set()
        self.names = [spec.name for spec in (*made_for.inputs, *made_for.outputs)]

    def create_execution_context(self, strategy):
        return ToyContext(self)


class _Package(TensorRT):
    logger = None  # the fakes take none
    log = None


def open_session(launch: Callable[..., None], vocabulary: int = VOCABULARY) -> TensorRTSession:
    made_for = contract(vocabulary)
    package = _Package(Flavour.RTX, fake_tensorrt.FakeModule(ToyEngine(launch, made_for)), "1.6.1")
    with tempfile.NamedTemporaryFile() as engine:
        engine.write(b"engine")
        engine.flush()
        return TensorRTSession(Path(engine.name), made_for, package)
