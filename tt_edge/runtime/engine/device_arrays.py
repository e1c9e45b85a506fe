"""Outputs of an engine that stay on the device, until whoever asked for them lets them go."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tt_edge import cuda
from tt_edge.contract import IOContract, Shape

#: Bytes that kept outputs may take on the device; two calls' are kept in any case. More are kept in host memory.
MAX_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Lease:
    """Buffers of one call's outputs, by name. When nothing refers to it any more, they are used again."""

    buffers: Mapping[str, cuda.Buffer]


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """One output ``[H, T, D]`` in device memory, C-contiguous."""

    lease: Lease
    name: str
    shape: Shape
    dtype: np.dtype

    @property
    def buffer(self) -> cuda.Buffer:
        return self.lease.buffers[self.name]

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        host, stream = np.empty(self.shape, self.dtype), cuda.Stream()
        self.buffer.copy_runs_to(host[None], 0, host.nbytes, stream)
        stream.synchronize()
        stream.close()
        return host


class OutputBuffers:
    """Leases buffers of the largest size for all outputs of ``contract``; they are allocated when they are first needed."""

    def __init__(self, contract: IOContract) -> None:
        largest = contract.largest
        self._bytes = {s.name: s.dtype.nbytes(math.prod(s.resolve(**largest))) for s in contract.outputs}
        self._left = max(2, MAX_BYTES // max(1, sum(self._bytes.values())))
        self._free: deque[dict[str, cuda.Buffer]] = deque()
        self._closed = False

    def lease(self) -> Lease | None:
        """Buffers that nobody uses; ``None`` where all that there may be are in use."""
        try:
            buffers = self._free.popleft()
        except IndexError:
            if not self._left:
                return None
            self._left -= 1
            buffers = {name: cuda.Buffer(nbytes) for name, nbytes in self._bytes.items()}
        found = Lease(buffers)
        weakref.finalize(found, self._give_back, buffers)
        return found

    def _give_back(self, buffers: dict[str, cuda.Buffer]) -> None:
        """Called by the garbage collector, in any thread and at any moment: it takes no lock."""
        self._free.append(buffers)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Free what is not in use; the rest when it is given back."""
        self._closed = True
        while self._free:
            for buffer in self._free.popleft().values():
                buffer.close()
