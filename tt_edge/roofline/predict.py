"""The time of each operation on a device, and of a step. Torch-free.

An operation takes the longer of its bytes at the achieved bandwidth and its arithmetic at the achieved peak, and the time to
start a kernel. A step takes the sum and the host's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.roofline.devices import Device
from tt_edge.roofline.operations import Kind, Operation, Step

#: Part of the published bandwidth that is achieved: 4,271 of 4,800 GB/s (copies on an H200, measured).
BANDWIDTH_ACHIEVED = 0.89
#: Seconds to start and end a kernel: what GEMV kernels take beyond their bytes (fp16 on an H200, measured: the median of
#: 4.3, 4.6 and 6.9 us for 4864x896, 14336x4096 and 4096x4096).
KERNEL_S = 4.6e-6
#: Part of the published peak that attention achieves: 313 to 525 of 989 TFLOPS at 8,192 tokens (H200, measured).
ATTENTION_ACHIEVED = 0.5
#: The same for matrix products. An assumption: not measured.
LINEAR_ACHIEVED = 0.7
#: Seconds of the host's work per step: one launch, one wait, sampling. An assumption: not measured.
HOST_S = 100e-6


class Bound(StrEnum):
    """What an operation's time is determined by."""

    MEMORY = "memory"
    MATH = "math"
    LAUNCH = "launch"


@dataclass(frozen=True)
class LayerTime:
    """An operation in one step: bytes moved, floating-point operations, seconds, and what limits it."""

    operation: Operation
    bytes: float
    flops: float
    seconds: float
    bound: Bound


@dataclass(frozen=True)
class Prediction:
    """One step on one device. ``seconds`` is the sum of the layers' and of ``host_s``."""

    device: Device
    step: Step
    layers: tuple[LayerTime, ...]
    host_s: float

    @property
    def seconds(self) -> float:
        return sum(layer.seconds for layer in self.layers) + self.host_s

    @property
    def bytes(self) -> float:
        return sum(layer.bytes for layer in self.layers)

    @property
    def flops(self) -> float:
        return sum(layer.flops for layer in self.layers)

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second, of all sequences."""
        return self.step.tokens / self.seconds

    def by_kind(self) -> dict[Kind, float]:
        """Seconds by kind of operation."""
        found: dict[Kind, float] = {}
        for layer in self.layers:
            kind = layer.operation.kind
            found[kind] = found.get(kind, 0.0) + layer.seconds
        return found


def predict(operations: Sequence[Operation], device: Device, step: Step, host_s: float = HOST_S) -> Prediction:
    """Predict one step. Raises ``InvalidInputError`` where the device lacks a type that an operation multiplies in."""
    layers = tuple(_time(operation, device, step) for operation in operations)
    return Prediction(device, step, layers, host_s * device.calibration)


def _time(operation: Operation, device: Device, step: Step) -> LayerTime:
    nbytes, flops = operation.bytes(step), operation.flops(step)
    achieved = ATTENTION_ACHIEVED if operation.kind is Kind.ATTENTION else LINEAR_ACHIEVED
    memory = nbytes / (device.bandwidth * 1e9 * BANDWIDTH_ACHIEVED)
    math = flops / (device.tflops(operation.math) * 1e12 * achieved)
    longest = max(memory, math)
    bound = Bound.LAUNCH if longest < KERNEL_S else Bound.MEMORY if memory >= math else Bound.MATH
    return LayerTime(operation, nbytes, flops, (longest + KERNEL_S) * device.calibration, bound)
