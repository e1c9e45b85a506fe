"""Memory in use while a benchmark runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tt_edge import cuda

_MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """MiB; ``None`` where it cannot be read.

    ``host``: the largest resident set of this process, with everything in it. ``device``: the GPU's memory in use, by any process.
    """

    host: float | None = None
    device: float | None = None

    @property
    def model(self) -> tuple[float, str]:
        """The memory that the model is in, and its name: the device's where there is a GPU."""
        return (self.device, "device") if self.device is not None else (self.host or 0.0, "process")


class PeakMemory:
    """The most memory in use from now on.

    The device's is what is in use when it is read: a session's memory does not grow once it is open.
    """

    def __init__(self) -> None:
        with suppress(OSError):  # start the high-water mark over (Linux, proc(5))
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> Memory:
        device, host = cuda.memory_in_use(), None
        with suppress(OSError, StopIteration):
            status = Path("/proc/self/status").read_text().splitlines()
            host = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
        return Memory(host, None if device is None else device / _MIB)
