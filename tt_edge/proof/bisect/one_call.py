"""Debugging engines: built with some tensors marked, run once on given inputs, and thrown away. Torch-free."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge import cuda
from tt_edge.contract import IOContract, ShapeRange, is_shape_tensor
from tt_edge.errors import EngineError
from tt_edge.folder import CheckedFile
from tt_edge.network.build import build_engine
from tt_edge.network.ir import Network
from tt_edge.proof.bisect.graph import with_outputs
from tt_edge.tensorrt_api import TensorRT


class _Memory:
    """Device buffers and page-locked host buffers of one call, by tensor; ``outputs`` are shapes and types."""

    def __init__(self) -> None:
        self.device: dict[str, cuda.Buffer] = {}
        self.outputs: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        self._host: dict[str, cuda.HostBuffer] = {}

    def host(self, name: str, nbytes: int = 0) -> cuda.HostBuffer:
        """The host buffer of a tensor, made of ``nbytes`` where it is not there yet."""
        if name not in self._host:
            self._host[name] = cuda.HostBuffer(nbytes)
        return self._host[name]

    def close(self) -> None:
        for buffer in {id(b): b for b in self.device.values()}.values():  # a cache updated in place is there twice
            buffer.close()
        for staging in self._host.values():
            staging.close()


@dataclass(frozen=True)
class TensorRTTrial:
    """Builds ``network`` with marks, for this machine's GPU and with the bundle's own optimization profiles, and calls it.

    ``profile`` is the one that a session would take for ``feeds``. The engine is written to ``folder`` (the system's temporary
    one if ``None``), which must have room for it. Raises ``EngineError`` where TensorRT refuses.
    """

    tensorrt: TensorRT
    network: Network
    contract: IOContract
    profiles: Sequence[Mapping[str, ShapeRange]]
    feeds: Mapping[str, np.ndarray]
    profile: int
    target: str | None = None
    folder: Path | None = None

    def __call__(self, marked: Sequence[str]) -> dict[str, np.ndarray]:
        network = with_outputs(self.network, marked)
        with tempfile.NamedTemporaryFile(prefix="tt-edge-", suffix=".engine", dir=self.folder) as file:
            build_engine(self.tensorrt, network, self.profiles, self.target, file)  # type: ignore[arg-type]
            file.flush()
            return self.call(CheckedFile.open(Path(file.name)), network)

    def call(self, file: CheckedFile, network: Network) -> dict[str, np.ndarray]:
        """Load an engine of ``network``, run it once and return its outputs by name."""
        stream, memory = cuda.Stream(), _Memory()
        try:
            engine = self.tensorrt.module.Runtime(self.tensorrt.logger).deserialize_cuda_engine(file.map())
            self._require(engine is not None, "to load a debugging engine")
            context = engine.create_execution_context()
            self._require(context is not None, "an execution context of a debugging engine")
            self._require(context.set_optimization_profile_async(self.profile, stream.handle), "its profile")
            self._give(context, memory, stream)
            self._take(context, network, memory)
            self._require(context.execute_async_v3(stream.handle), "a call of a debugging engine")
            outputs = {name: memory.host(name).view(*memory.outputs[name]) for name in network.outputs}
            for name, array in outputs.items():
                memory.device[name].copy_to(array, stream)
            stream.synchronize()
            return {name: array.copy() for name, array in outputs.items()}
        finally:
            memory.close()
            stream.close()

    def _give(self, context: Any, memory: _Memory, stream: cuda.Stream) -> None:
        """Bind the inputs, each in its shape."""
        for name, array in self.feeds.items():
            self._require(context.set_input_shape(name, array.shape), f"shape {array.shape} for {name}")
            staged = memory.host(name, array.nbytes).view(array.shape, array.dtype)
            staged[...] = array
            address = memory.host(name).address  # TensorRT reads shape tensors on the host
            if not is_shape_tensor(name):
                memory.device[name] = cuda.Buffer(array.nbytes)
                memory.device[name].copy_from(staged, stream)
                address = memory.device[name].address
            self._require(context.set_tensor_address(name, address), f"the address of {name}")

    def _take(self, context: Any, network: Network, memory: _Memory) -> None:
        """Bind the outputs. A cache that is updated in place has its input's memory."""
        places = {pair.present: pair.past for pair in self.contract.kv_cache} if self.contract.kv_in_place else {}
        for name in network.outputs:
            shape, dtype = tuple(context.get_tensor_shape(name)), network.tensors[name].dtype.numpy
            self._require(min(shape, default=0) >= 0, f"the shape {shape} of {name}")
            nbytes = math.prod(shape) * dtype.itemsize
            memory.outputs[name] = (shape, dtype)
            memory.host(name, nbytes)
            memory.device[name] = memory.device[places[name]] if name in places else cuda.Buffer(nbytes)
            self._require(context.set_tensor_address(name, memory.device[name].address), f"the address of {name}")

    def _require(self, accepted: bool, what: str) -> None:
        if not accepted:
            reason = " ".join(self.tensorrt.log.last_error().split())
            raise EngineError(
                f"TensorRT {self.tensorrt.version} refuses {what}{f' ({reason})' if reason else ''}; nothing is known of it then"
            )
