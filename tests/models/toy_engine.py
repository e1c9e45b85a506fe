"""A stand-in for an engine on a real GPU: a kernel of a few lines, behind the fakes of TensorRT's classes."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.engine import fake_tensorrt
from tt_edge import cuda
from tt_edge.config import Limits
from tt_edge.contract import (
    IMAGE_FEATURES,
    IMAGE_INDICES,
    IMAGE_TOKENS,
    LOG_SUM_EXP,
    TOP_IDS,
    TOP_LOGITS,
    TOP_OUTPUTS,
    TWO_PROFILES,
    IOContract,
    KVPair,
    TensorSpec,
    VisionGeometry,
)
from tt_edge.dtypes import DType
from tt_edge.folder import CheckedFile
from tt_edge.runtime.engine.feed_forward import TensorRTFeedForward
from tt_edge.runtime.engine.tensorrt_session import TensorRTSession
from tt_edge.tensorrt_api import Flavour, TensorRT

# A "model" whose next token follows from all tokens so far, which it keeps in its cache; an image's token is what the table
# of features has for it. One block of threads a row; every element of the logits is written: 0 for the next token, and
# SLOPE less for each of those after it. With "count", that many of the largest are written too, and the log-sum-exp.
KERNEL = rb"""
extern "C" __global__ void toy(
    const long long* ids, const int* write_indices, float* cache, float* logits, const int* image_indices, const float* features,
    float* top, int* chosen, float* total, int width, int capacity, int depth, int vocab, int hidden, int whole, int count
) {
    int row = blockIdx.x;
    for (int step = 0; step < width; ++step) {
        int place = write_indices[row] + step, hash = 0;
        int image = image_indices ? image_indices[row * width + step] : -1;
        if (threadIdx.x == 0)
            cache[(row * capacity + place) * depth] = image >= 0 ? features[image * hidden] : (float)ids[row * width + step];
        __syncthreads();
        for (int i = 0; i <= place; ++i) hash = (hash * 31 + (int)cache[(row * capacity + i) * depth] + 1) % 1009;
        int next = hash % vocab;
        if (!whole && step < width - 1) continue;
        float* out = logits + (whole ? row * width + step : row) * vocab;
        for (int token = threadIdx.x; token < vocab; token += blockDim.x)
            out[token] = -0.125f * (token >= next ? token - next : token + vocab - next);
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            top[row * count + i] = -0.125f * i;
            chosen[row * count + i] = (next + i) % vocab;
        }
        if (count && threadIdx.x == 0) total[row] = logf((1.0f - expf(-0.125f * vocab)) / (1.0f - expf(-0.125f)));
    }
}
"""

# A "tower" whose features are a patch's sum, and 1000 for each segment. Rows are tokens of four patches.
VISION_KERNEL = rb"""
extern "C" __global__ void toy_vision(const float* patches, const int* segment_ids, float* features, int patch_dim, int hidden) {
    int row = blockIdx.x;
    for (int column = threadIdx.x; column < hidden; column += blockDim.x) {
        float sum = 1000.0f * segment_ids[row * 4] + column;
        for (int i = 0; i < 4 * patch_dim; ++i) sum += patches[row * 4 * patch_dim + i];
        features[row * hidden + column] = sum;
    }
}
"""
VOCABULARY, CAPACITY, DEPTH = 97, 64, 4
PATCH_DIM, HIDDEN, IMAGE_TOKENS_A_ROW = 6, 8, 12


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


def contract(
    vocabulary: int, *, images: bool = False, last: bool = False, top: int = 0, layers: int = 1, batch: int = 3
) -> IOContract:
    """``last``: logits of the last column; ``top``: and that many of the largest. Only the first of ``layers`` is used."""
    cache = ("batch", 1, CAPACITY, DEPTH)
    pairs = [(f"past_key_{i}", f"present_key_{i}") for i in range(layers)]
    largest = (
        TensorSpec(TOP_LOGITS, DType.FLOAT32, ("batch", top)),
        TensorSpec(TOP_IDS, DType.INT32, ("batch", top)),
        TensorSpec(LOG_SUM_EXP, DType.FLOAT32, ("batch",)),
    )
    tables = (
        TensorSpec(IMAGE_INDICES, DType.INT32, ("batch", "sequence")),
        TensorSpec(IMAGE_FEATURES, DType.FLOAT32, (3 * IMAGE_TOKENS_A_ROW, HIDDEN)),
    )
    return IOContract(
        inputs=(
            *(tables if images else ()),
            TensorSpec("input_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("position_ids", DType.INT64, ("batch", "sequence")),
            TensorSpec("write_indices", DType.INT32, ("batch",)),
            *(TensorSpec(past, DType.FLOAT32, cache) for past, _ in pairs),
        ),
        outputs=(
            TensorSpec("logits", DType.FLOAT32, ("batch", vocabulary) if last else ("batch", "sequence", vocabulary)),
            *(largest if top else ()),
            *(TensorSpec(present, DType.FLOAT32, cache) for _, present in pairs),
        ),
        limits=Limits(max_batch=batch, max_input_len=16, max_seq_len=CAPACITY),
        phases=TWO_PROFILES,
        kv_cache=tuple(KVPair(past, present) for past, present in pairs),
    )


def vision_contract() -> IOContract:
    return IOContract(
        geometry=VisionGeometry("toy", IMAGE_TOKENS, 1, merge_size=2, patch_dim=PATCH_DIM),
        inputs=(
            TensorSpec("patches", DType.FLOAT32, ("units", 4, PATCH_DIM)),
            TensorSpec("segment_ids", DType.INT32, ("units", 4)),
        ),
        outputs=(TensorSpec(IMAGE_FEATURES, DType.FLOAT32, ("rows", HIDDEN)),),
        limits=Limits(min_image_tokens=2, max_image_tokens=IMAGE_TOKENS_A_ROW),
    )


def checked(result):
    error, *values = result
    assert int(error) == 0, error
    return values[0] if values else None


def compile_kernel(
    source: bytes = KERNEL, name: bytes = b"toy", pointers: int = 9, numbers: int = 7
) -> Callable[..., None]:
    """A kernel for the GPU that is here: ``launch(rows, stream, *arguments)``, of which ``pointers`` are addresses."""
    driver, nvrtc = (pytest.importorskip(f"cuda.bindings.{module}") for module in ("driver", "nvrtc"))
    cuda.call("cudaFree", 0)  # makes the context
    program = checked(nvrtc.nvrtcCreateProgram(source, b"toy.cu", 0, [], []))
    target = f"--gpu-architecture=sm_{cuda.compute_capability()[2:]}".encode()
    checked(nvrtc.nvrtcCompileProgram(program, 1, [target]))
    code = b" " * checked(nvrtc.nvrtcGetCUBINSize(program))
    checked(nvrtc.nvrtcGetCUBIN(program, code))
    module = checked(driver.cuModuleLoadData(code))
    function = checked(driver.cuModuleGetFunction(module, name))

    def launch(rows, stream, *arguments):
        kinds = (ctypes.c_void_p,) * pointers + (ctypes.c_int,) * numbers
        checked(driver.cuLaunchKernel(function, rows, 1, 1, 256, 1, 1, 0, stream, (arguments, kinds), 0))

    return launch


class ToyContext(fake_tensorrt.FakeContext):
    """Launches the kernel on the addresses and shapes that it was given, as TensorRT would its own."""

    def execute_async_v3(self, stream):
        rows, width = self.shapes["input_ids"]
        names = ("input_ids", "write_indices", "past_key_0", "logits", IMAGE_INDICES, IMAGE_FEATURES, *TOP_OUTPUTS)
        addresses = [self.addresses.get(name, 0) for name in names]
        assert self.addresses["past_key_0"] == self.addresses["present_key_0"]
        made_for = self.engine.contract
        whole = len(made_for.output("logits").shape) == 3
        sizes = (width, CAPACITY, DEPTH, made_for.vocab_size, HIDDEN, whole, made_for.top_count)
        self.engine.launch(rows, stream, *addresses, *sizes)
        return True


class ToyVisionContext(fake_tensorrt.FakeContext):
    def execute_async_v3(self, stream):
        addresses = [self.addresses[name] for name in ("patches", "segment_ids", IMAGE_FEATURES)]
        self.engine.launch(self.shapes["patches"][0], stream, *addresses, PATCH_DIM, HIDDEN)
        return True


class ToyEngine(fake_tensorrt.FakeEngine):
    def __init__(self, launch: Callable[..., None], made_for: IOContract) -> None:
        self.contract, self.launch, self.missing = made_for, launch, set()
        self.specs = {spec.name: spec for spec in (*made_for.inputs, *made_for.outputs)}
        self.names = list(self.specs)

    def create_execution_context(self, strategy):
        return ToyContext(self) if self.contract.geometry is None else ToyVisionContext(self)


class _Package(TensorRT):
    logger = None  # the fakes take none
    log = None


def open_session(launch: Callable[..., None], vocabulary: int = VOCABULARY, **options: Any) -> TensorRTSession:
    made_for = contract(vocabulary, **options)
    with _engine_file() as file:
        return TensorRTSession(file, made_for, _package(ToyEngine(launch, made_for)))


def open_vision(launch: Callable[..., None]) -> TensorRTFeedForward:
    made_for = vision_contract()
    with _engine_file() as file:
        return TensorRTFeedForward(file, made_for, _package(ToyEngine(launch, made_for)))


def _package(engine: ToyEngine) -> TensorRT:
    return _Package(Flavour.RTX, fake_tensorrt.FakeModule(engine), "1.6.1")


@contextmanager
def _engine_file() -> Iterator[CheckedFile]:
    with tempfile.NamedTemporaryFile() as engine:
        engine.write(b"engine")
        engine.flush()
        yield CheckedFile.open(Path(engine.name))
