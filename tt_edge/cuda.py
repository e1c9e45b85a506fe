"""Memory, a stream, its graphs and the GPU's name, over NVIDIA's ``cuda.bindings``. Imported only to run engines."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tt_edge.errors import EngineError, MissingDependencyError


@cache
def runtime() -> Any:
    """The ``cuda.bindings.runtime`` module. Raises ``MissingDependencyError`` with the extra that brings it."""
    try:
        from cuda.bindings import runtime as module
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"cuda-bindings is not usable here ({error}); install tt-edge[runtime]") from error
    return module


def call(name: str, *arguments: Any) -> Any:
    """Call the CUDA runtime function ``name``; returns its result, or a tuple of several.

    Raises ``EngineError`` with CUDA's reason.
    """
    cuda = runtime()
    try:
        error, *results = getattr(cuda, name)(*arguments)
    except RuntimeError as failure:  # the bindings' own, when they find no driver library
        raise EngineError(
            f"{name} failed ({failure}); install an NVIDIA driver or use --runtime reference"
        ) from failure
    if error != cuda.cudaError_t.cudaSuccess:
        reason = cuda.cudaGetErrorString(error)[1].decode()
        raise EngineError(f"{name} failed ({reason}); check the NVIDIA driver and free device memory")
    return results[0] if len(results) == 1 else tuple(results)


def compute_capability() -> str:
    """Compute capability of the current GPU, such as ``sm89``. Raises ``EngineError`` without one."""
    device, attributes = call("cudaGetDevice"), runtime().cudaDeviceAttr
    major = call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, device)
    minor = call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, device)
    return f"sm{major}{minor}"


def is_available() -> bool:
    """Whether there is a GPU that CUDA can use."""
    try:
        compute_capability()
    except (EngineError, MissingDependencyError):
        return False
    return True


def device_name() -> str:
    """Marketing name of the current GPU."""
    name = call("cudaGetDeviceProperties", call("cudaGetDevice")).name
    return name.decode() if isinstance(name, bytes) else str(name)


def memory_in_use() -> int | None:
    """Bytes of the current GPU's memory that are in use, by any process; ``None`` without a usable GPU."""
    try:
        free, total = call("cudaMemGetInfo")
    except (EngineError, MissingDependencyError):
        return None
    return int(total - free)


class Stream:
    """A non-blocking stream. ``handle`` is its address, as TensorRT takes it."""

    def __init__(self) -> None:
        self._stream = call("cudaStreamCreateWithFlags", runtime().cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        call("cudaStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Capture what ``work`` queues on this stream as a graph; nothing is executed.

        Raises ``EngineError`` if something cannot be captured; the stream is usable afterwards.
        """
        cuda = runtime()
        call("cudaStreamBeginCapture", self._stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            cuda.cudaStreamEndCapture(self._stream)  # this fails too, but ends the capture
            raise
        graph = call("cudaStreamEndCapture", self._stream)
        try:
            return Graph(call("cudaGraphInstantiate", graph, 0))
        finally:
            call("cudaGraphDestroy", graph)

    def close(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            call("cudaStreamDestroy", stream)


class Graph:
    """Work captured from a stream, which can be queued again in one call. Its addresses must stay valid."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        call("cudaGraphLaunch", self._executable, stream.handle)

    def close(self) -> None:
        if self._executable is not None:
            executable, self._executable = self._executable, None
            call("cudaGraphExecDestroy", executable)


class HostBuffer:
    """Page-locked host memory of fixed size, for direct copies to and from the device.

    Views of it must not be used after ``close``.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(1, nbytes)
        self._pointer = call("cudaHostAlloc", self.nbytes, runtime().cudaHostAllocDefault)
        self.address = int(self._pointer)
        memory = (ctypes.c_uint8 * self.nbytes).from_address(self.address)
        self._bytes = np.frombuffer(memoryview(memory), np.uint8)

    def view(self, shape: tuple[int, ...], dtype: np.dtype, offset: int = 0) -> np.ndarray:
        """The bytes from ``offset`` on as an array."""
        part: np.ndarray = self._bytes[offset : offset + math.prod(shape) * dtype.itemsize]
        return part.view(dtype).reshape(shape)

    def close(self) -> None:
        if self._pointer is not None:
            pointer, self._pointer = self._pointer, None
            call("cudaFreeHost", pointer)


class Buffer:
    """Device memory of fixed size. Copies are queued on a stream: keep the host array until it is synchronized."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(1, nbytes)
        self._pointer = call("cudaMalloc", self.nbytes)
        self.address = int(self._pointer)

    def fill_zero(self, stream: Stream) -> None:
        call("cudaMemsetAsync", self.address, 0, self.nbytes, stream.handle)

    def copy_from(self, host: np.ndarray, stream: Stream, offset: int = 0) -> None:
        """Queue a copy of the C-contiguous ``host`` to ``offset`` bytes into the buffer. Raises ``EngineError`` beyond its end."""
        self._require_size(offset + host.nbytes)
        kind = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", self.address + offset, host.ctypes.data, host.nbytes, kind, stream.handle)

    def copy_to(self, host: np.ndarray, stream: Stream, offset: int = 0) -> None:
        """Queue a copy of what is ``offset`` bytes into the buffer to the C-contiguous ``host``. Raises as ``copy_from``."""
        self._require_size(offset + host.nbytes)
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", host.ctypes.data, self.address + offset, host.nbytes, kind, stream.handle)

    def copy_runs_from(self, host: np.ndarray, offset: int, pitch: int, stream: Stream) -> None:
        """Queue a copy of each ``host[i]``, C-contiguous, to ``offset + i * pitch`` bytes into the buffer."""
        kind, width = runtime().cudaMemcpyKind.cudaMemcpyHostToDevice, host[0].nbytes
        self._require_inside(offset, pitch, host)
        to, source = (self.address + offset, pitch), (host.ctypes.data, width)
        call("cudaMemcpy2DAsync", *to, *source, width, len(host), kind, stream.handle)

    def copy_runs_to(self, host: np.ndarray, offset: int, pitch: int, stream: Stream) -> None:
        """The reverse of ``copy_runs_from``."""
        kind, width = runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost, host[0].nbytes
        self._require_inside(offset, pitch, host)
        to, source = (host.ctypes.data, width), (self.address + offset, pitch)
        call("cudaMemcpy2DAsync", *to, *source, width, len(host), kind, stream.handle)

    def copy_runs_within_device(
        self, source: Buffer, source_pitch: int, width: int, count: int, offset: int, pitch: int, stream: Stream
    ) -> None:
        """Queue copies of ``width`` bytes from ``i * source_pitch`` of ``source`` to ``offset + i * pitch``, ``count`` of them."""
        kind = runtime().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        source._require_runs(0, source_pitch, width, count)
        self._require_runs(offset, pitch, width, count)
        to, where = (self.address + offset, pitch), (source.address, source_pitch)
        call("cudaMemcpy2DAsync", *to, *where, width, count, kind, stream.handle)

    def _require_inside(self, offset: int, pitch: int, host: np.ndarray) -> None:
        self._require_runs(offset, pitch, host[0].nbytes, len(host))

    def _require_runs(self, offset: int, pitch: int, width: int, count: int) -> None:
        """Raise ``EngineError`` for a copy beyond the buffer. CUDA does not check this and would access other memory."""
        end = offset + (count - 1) * pitch + width
        if offset < 0 or width > pitch:
            raise EngineError(
                f"a copy of pieces of {width:,} bytes begins at byte {offset:,}, {pitch:,} apart; compile the model again"
            )
        self._require_size(end)

    def _require_size(self, end: int) -> None:
        if not 0 <= end <= self.nbytes:
            raise EngineError(f"a copy ends at byte {end:,} of a buffer of {self.nbytes:,}; compile the model again")

    def close(self) -> None:
        if self._pointer is not None:
            pointer, self._pointer = self._pointer, None
            call("cudaFree", pointer)
