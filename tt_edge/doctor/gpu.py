"""The GPU that CUDA finds."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge import cuda
from tt_edge.errors import TTEdgeError, one_line


@dataclass(frozen=True)
class Gpu:
    """The current GPU. Memory in bytes; ``driver_cuda`` and ``runtime_cuda`` are CUDA versions, such as ``13.0``: the newest
    that the driver serves, and that of the runtime library. ``integrated`` GPUs share the machine's memory."""

    name: str
    compute_capability: str
    memory: int
    memory_free: int
    integrated: bool
    driver_cuda: str
    runtime_cuda: str


def read_gpu() -> Gpu | str:
    """The GPU, or why there is none that can be used."""
    try:
        capability = cuda.compute_capability()
        properties = cuda.call("cudaGetDeviceProperties", cuda.call("cudaGetDevice"))
        free, total = cuda.call("cudaMemGetInfo")
        return Gpu(
            name=cuda.device_name(),
            compute_capability=capability,
            memory=int(total),
            memory_free=int(free),
            integrated=bool(properties.integrated),
            driver_cuda=_version(cuda.call("cudaDriverGetVersion")),
            runtime_cuda=_version(cuda.call("cudaRuntimeGetVersion")),
        )
    except TTEdgeError as error:
        return one_line(error)


def _version(number: int) -> str:
    """``13.0`` of 13000, as CUDA writes its versions."""
    return f"{number // 1000}.{number % 1000 // 10}"
