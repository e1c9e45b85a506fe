"""TensorRT and CUDA in host memory: engines are evaluated by the reference, on the addresses that they are given.

The fakes have exactly what the session calls, under its real name; test_tensorrt_session holds them against the real
bindings.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np

from tt_edge.contract import SHAPE_TENSORS, EngineContract
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator

SUCCESS = 0


class FakeCuda:
    """``cuda.bindings.runtime`` over host memory, for one "GPU" of compute capability 8.9."""

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS, cudaErrorMemoryAllocation=2)  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815

    def __init__(self, allocations: int = 1000) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.streams = 0
        self.synchronized = 0
        self.left = allocations

    def cudaGetErrorString(self, error):  # noqa: N802
        return SUCCESS, b"out of memory"

    def cudaGetDevice(self):  # noqa: N802
        return SUCCESS, 0

    def cudaDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return SUCCESS, attribute

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        return SUCCESS, SimpleNamespace(name=b"Fake GPU")

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        self.streams += 1
        return SUCCESS, 77

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        self.synchronized += 1
        return (SUCCESS,)

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.streams -= 1
        return (SUCCESS,)

    def cudaMalloc(self, size):  # noqa: N802
        self.left -= 1
        if self.left < 0:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        memory = np.full(size, 0xFF, np.uint8)  # NaN in every float type
        self.memory[memory.ctypes.data] = memory
        return SUCCESS, memory.ctypes.data

    def cudaFree(self, address):  # noqa: N802
        del self.memory[address]
        return (SUCCESS,)

    def cudaMemcpy2DAsync(self, to, to_pitch, source, source_pitch, width, height, kind, stream):  # noqa: N802
        if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice:
            device, pitch = to, to_pitch
        else:
            device, pitch = source, source_pitch
        base = next(a for a, memory in self.memory.items() if a <= device < a + memory.nbytes)
        assert device - base + pitch * (height - 1) + width <= self.memory[base].nbytes
        for run in range(height):
            ctypes.memmove(to + run * to_pitch, source + run * source_pitch, width)
        return (SUCCESS,)

    def cudaMemsetAsync(self, address, value, count, stream):  # noqa: N802
        self.memory[address][:count] = value
        return (SUCCESS,)

    def cudaMemcpyAsync(self, to, source, count, kind, stream):  # noqa: N802
        device = to if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert count <= self.memory[device].nbytes
        ctypes.memmove(to, source, count)
        return (SUCCESS,)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        limits = self.engine.contract.profiles()[self.profile][name]
        self.shapes[name] = shape
        return name in SHAPE_TENSORS or all(
            low <= size <= high for low, size, high in zip(limits.min, shape, limits.max, strict=True)
        )

    def execute_async_v3(self, stream):
        contract = self.engine.contract
        for pair in contract.kv_cache:
            assert (self.addresses[pair.past] == self.addresses[pair.present]) == contract.kv_in_place
        feeds = {s.name: self._array(s.name, self.shapes[s.name], s.dtype.numpy) for s in contract.inputs}
        outputs = self.engine.evaluator.run(feeds)
        for name in ["logits"] if contract.kv_in_place else outputs:
            self._array(name, outputs[name].shape, outputs[name].dtype)[...] = outputs[name]
        self.engine.executed.append(self.profile)
        return True

    def _array(self, name, shape, dtype):
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_byte * size).from_address(self.addresses[name]), dtype).reshape(shape)


class FakeEngine:
    def __init__(self, network: Network, contract: EngineContract) -> None:
        self.evaluator = ReferenceEvaluator(network)
        self.contract = contract
        self.executed: list[int | None] = []
        self.names = [spec.name for spec in (*contract.inputs, *contract.outputs)]

    @property
    def num_io_tensors(self):
        return len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def create_execution_context(self, strategy):
        return FakeContext(self)


class FakeModule:
    """The TensorRT package; ``engine`` is what any file deserializes to."""

    ExecutionContextAllocationStrategy = SimpleNamespace(ON_PROFILE_CHANGE=1)

    def __init__(self, engine: FakeEngine | None) -> None:
        self.engine = engine

    def Runtime(self, logger):  # noqa: N802
        return FakeRuntime(self.engine)


class FakeRuntime:
    def __init__(self, engine: FakeEngine | None) -> None:
        self.engine = engine

    def deserialize_cuda_engine(self, data):
        return self.engine
