"""TensorRT and CUDA in host memory: engines are evaluated by the reference, on the addresses that they are given.

The fakes have exactly what the session calls, under its real name; test_tensorrt_session holds them against the real
bindings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tt_edge.contract import IOContract, is_shape_tensor
from tt_edge.dtypes import DType
from tt_edge.network.capture import DTYPES
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator

SUCCESS = 0


class FakeCuda:
    """``cuda.bindings.runtime`` over host memory, for one "GPU" of compute capability 8.9."""

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS, cudaErrorMemoryAllocation=2)  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=9)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815

    def __init__(self, allocations: int = 1000) -> None:
        self.memory: dict[int, np.ndarray] = {}  # of the device and page-locked, by address
        self.streams = 0
        self.synchronized = 0
        self.launches = 0
        self.left = allocations
        self.capturing: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}  # those that were instantiated
        self.refuses_capture = False

    def queue(self, work: Callable[[], None]) -> None:
        """Do what a stream was given, or put it into the graph that is being captured."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def cudaGetErrorString(self, error):  # noqa: N802
        return SUCCESS, b"out of memory"

    def cudaGetDevice(self):  # noqa: N802
        return SUCCESS, 0

    def cudaDeviceGetAttribute(self, attr, device):  # noqa: N802
        return SUCCESS, attr

    def cudaGetDeviceProperties(self, device):  # noqa: N802
        return SUCCESS, SimpleNamespace(name=b"Fake GPU")

    def cudaStreamCreateWithFlags(self, flags):  # noqa: N802
        self.streams += 1
        return SUCCESS, 77

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        assert self.capturing is None
        self.synchronized += 1
        return (SUCCESS,)

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.streams -= 1
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert self.capturing is None
        self.capturing = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):  # noqa: N802
        graph, self.capturing = self.capturing, None
        return (1, None) if self.refuses_capture else (SUCCESS, graph)

    def cudaGraphInstantiate(self, graph, flags):  # noqa: N802
        self.graphs[id(graph)] = graph
        return SUCCESS, id(graph)

    def cudaGraphDestroy(self, graph):  # noqa: N802
        return (SUCCESS,)

    def cudaGraphLaunch(self, graph_exec, stream):  # noqa: N802
        self.launches += 1
        for work in self.graphs[graph_exec]:
            work()
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graph_exec):  # noqa: N802
        del self.graphs[graph_exec]
        return (SUCCESS,)

    def cudaMalloc(self, size):  # noqa: N802
        self.left -= 1
        if self.left < 0:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        assert self.capturing is None
        memory = np.full(size, 0xFF, np.uint8)  # NaN in every float type
        self.memory[memory.ctypes.data] = memory
        return SUCCESS, memory.ctypes.data

    def cudaFree(self, address):  # noqa: N802
        del self.memory[address]
        return (SUCCESS,)

    def cudaHostAlloc(self, size, flags):  # noqa: N802
        return self.cudaMalloc(size)

    def cudaFreeHost(self, address):  # noqa: N802
        return self.cudaFree(address)

    def cudaMemcpy2DAsync(self, to, to_pitch, source, source_pitch, width, height, kind, stream):  # noqa: N802
        if kind != self.cudaMemcpyKind.cudaMemcpyDeviceToHost:
            self._check_inside(to, to_pitch * (height - 1) + width)
        if kind != self.cudaMemcpyKind.cudaMemcpyHostToDevice:
            self._check_inside(source, source_pitch * (height - 1) + width)
        for run in range(height):
            ctypes.memmove(to + run * to_pitch, source + run * source_pitch, width)
        return (SUCCESS,)

    def cudaMemsetAsync(self, address, value, count, stream):  # noqa: N802
        self.memory[address][:count] = value
        return (SUCCESS,)

    def cudaMemcpyAsync(self, to, source, count, kind, stream):  # noqa: N802
        for address in (to, source):  # one is page-locked, or the copy would wait
            self._check_inside(address, count)
        self.queue(lambda: ctypes.memmove(to, source, count))
        return (SUCCESS,)

    def _check_inside(self, address: int, count: int) -> None:
        base = max((a for a in self.memory if a <= address), default=None)
        assert base is not None, "memory that is neither the device's nor page-locked"
        assert address + count <= base + self.memory[base].nbytes


class FakeContext:
    REAL = "IExecutionContext"

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.memory = (0, 0)
        self.profiler: Any = None

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_device_memory(self, memory, size):
        self.memory = (memory, size)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        limits = self.engine.contract.profiles()[self.profile][name]
        self.shapes[name] = shape
        return is_shape_tensor(name) or all(
            low <= size <= high for low, size, high in zip(limits.min, shape, limits.max, strict=True)
        )

    def execute_async_v3(self, stream):
        contract = self.engine.contract
        for pair in contract.kv_cache:  # a vision network has none
            assert (self.addresses[pair.past] == self.addresses[pair.present]) == contract.kv_in_place
        assert self.memory[0]
        assert self.memory[1] >= self.engine.get_device_memory_size_for_profile_v2(self.profile)
        shapes = dict(self.shapes)  # a graph keeps those that it was captured with
        self.engine.queue(lambda: self._run(shapes))
        if self.profiler is not None:
            assert not self.engine.capturing(), "TensorRT cannot time the layers of a graph"
            for number, layer in enumerate(self.engine.network.layers):
                self.profiler.report_layer_time(layer.name, (number + 1) * 1e-3)
        return True

    def _run(self, shapes):
        contract = self.engine.contract
        feeds = {s.name: self._array(s.name, shapes[s.name], s.dtype.numpy) for s in contract.inputs}
        outputs = self.engine.evaluator.run(feeds)
        updated = {pair.present for pair in contract.kv_cache if contract.kv_in_place}
        for name in outputs.keys() - updated:
            self._array(name, outputs[name].shape, outputs[name].dtype)[...] = outputs[name]
        self.engine.executed.append(self.profile)

    def _array(self, name, shape, dtype):
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_byte * size).from_address(self.addresses[name]), dtype).reshape(shape)


class FakeEngine:
    REAL = "ICudaEngine"

    def __init__(self, network: Network, contract: IOContract) -> None:
        self.network = network
        self.evaluator = ReferenceEvaluator(network)
        self.contract = contract
        self.executed: list[int | None] = []
        self.names = [spec.name for spec in (*contract.inputs, *contract.outputs)]
        self.specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
        self.queue: Callable[[Callable[[], None]], None] = lambda work: work()
        self.capturing: Callable[[], bool] = lambda: False
        self.missing: set[str] = set()  # weights that a stripped engine waits for

    @property
    def num_io_tensors(self):
        return len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(size, str) else size for size in self.specs[name].shape)

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=next(key for key, dtype in DTYPES.items() if dtype is self.specs[name].dtype))

    def get_device_memory_size_for_profile_v2(self, profile):
        return (4096, 512)[profile]

    def create_execution_context(self, strategy):
        assert int(strategy) == FakeModule.ExecutionContextAllocationStrategy.USER_MANAGED
        assert not self.missing
        return FakeContext(self)


class FakeRefitter:
    REAL = "Refitter"

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def get_all_weights(self):
        return sorted(self.engine.missing)

    def get_weights_prototype(self, name):
        return SimpleNamespace(dtype=SimpleNamespace(name=self._dtype(name)))

    def set_named_weights(self, name, weights):
        dtype, address, count = weights
        stored = self.engine.network.weights[name]
        assert dtype.name == self._dtype(name)
        given = (ctypes.c_byte * stored.nbytes).from_address(address)
        if count != stored.size or bytes(given) != stored.tobytes():
            return False
        self.engine.missing.remove(name)
        return True

    def refit_cuda_engine(self):
        return not self.engine.missing

    def _dtype(self, name):
        return next(key for key, dtype in DTYPES.items() if dtype is DType.of(self.engine.network.weights[name]))


class FakeModule:
    """The TensorRT package; ``engine`` is what any file deserializes to."""

    REAL = ""
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)

    def __init__(self, engine: FakeEngine | None) -> None:
        self.engine = engine
        self.runtime: FakeRuntime | None = None

    def Runtime(self, logger):  # noqa: N802
        self.runtime = FakeRuntime(self.engine)
        return self.runtime

    def Refitter(self, engine, logger):  # noqa: N802
        return FakeRefitter(engine)

    def Weights(self, dtype, address, count):  # noqa: N802
        return dtype, address, count


class FakeRuntime:
    REAL = "Runtime"

    def __init__(self, engine: FakeEngine | None) -> None:
        self.engine = engine
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        return self.engine
