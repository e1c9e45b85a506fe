"""Building a captured network into a serialized engine, with whatever TensorRT is here. Torch-free.

The engine goes from the builder straight to its file (``build_serialized_network_to_stream``), so it is never a whole
in memory beside the builder's own copy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from tt_edge import cuda
from tt_edge.contract import SHAPE_TENSORS, ShapeRange
from tt_edge.errors import EngineError, TTEdgeError
from tt_edge.network.ir import Network
from tt_edge.network.rebuild import RebuiltNetwork, rebuild
from tt_edge.tensorrt_api import TensorRT

#: Called with (phase, steps done, steps in all) as the build advances; returning False cancels it.
Progress = Callable[[str, int, int], bool]


@dataclass(frozen=True)
class EngineBuild:
    """Facts about a built engine. ``compute_capability`` is such as ``sm89``."""

    flavour: str
    tensorrt_version: str
    platform: str
    compute_capability: str
    bytes: int
    seconds: float
    layers: int


def known_targets(tensorrt: TensorRT) -> list[str]:
    """Compute capabilities that this TensorRT builds for ahead of time, e.g. ``["sm75", …, "sm121"]``."""
    if not tensorrt.builds_ahead_of_time:
        return []
    names = [name.lower() for name in tensorrt.module.ComputeCapability.__members__ if name.startswith("SM")]
    return sorted(names, key=lambda name: int(name[2:]))


def local_compute_capability() -> str:
    """The compute capability of this machine's GPU, e.g. ``sm89``. Raises ``EngineError`` without one."""
    try:
        return cuda.compute_capability()
    except TTEdgeError as error:
        raise EngineError(f"this machine has no usable GPU ({error}); name a target such as sm89 instead") from error


def check_target(tensorrt: TensorRT, target: str | None) -> str:
    """The compute capability to build for: ``target``, or the local GPU's for ``None``; checked before any work."""
    if not tensorrt.can_build:
        raise EngineError(f"{tensorrt.flavour} {tensorrt.version} has no builder; install tensorrt or tensorrt-rtx")
    if target is None:
        return local_compute_capability()
    known = known_targets(tensorrt)
    if target in known:
        return target
    if not known:
        local = local_compute_capability()
        if target == local:
            return local
        raise EngineError(
            f"{tensorrt.flavour} {tensorrt.version} builds only for the GPU it runs on, which is {local}, not {target}; "
            "build on the target, or install tensorrt-rtx to build ahead of time"
        )
    raise EngineError(f"{tensorrt.flavour} {tensorrt.version} has no target {target}; it has {', '.join(known)}")


def build_engine(
    tensorrt: TensorRT,
    network: Network,
    profiles: Sequence[Mapping[str, ShapeRange]],
    target: str | None,
    destination: BinaryIO,
    *,
    progress: Progress | None = None,
    workspace_bytes: int | None = None,
) -> EngineBuild:
    """Build ``network`` for one compute capability and write the engine to ``destination``.

    ``target`` is a name such as ``sm89``, built ahead of time where this TensorRT can, or ``None`` for the local GPU.
    ``profiles`` become optimization profiles in order. Raises ``EngineError`` with the builder's own complaint when it
    refuses, and ``KeyboardInterrupt`` after the builder has stopped when Ctrl-C was pressed; what ``destination`` holds
    then is the caller's to delete.
    """
    capability = check_target(tensorrt, target)
    rebuilt = rebuild(tensorrt, network)
    config = _configure(tensorrt, rebuilt, profiles, capability if target else None, workspace_bytes)
    monitor = _monitor(tensorrt, progress)
    config.progress_monitor = monitor
    errors_before = len(tensorrt.log.errors)
    start = time.perf_counter()
    writer = _writer(tensorrt, destination)
    built = rebuilt.builder.build_serialized_network_to_stream(rebuilt.network, config, writer)
    if monitor.interrupted is not None:
        raise monitor.interrupted
    if writer.failure is not None:
        raise writer.failure
    if not built:
        reason = tensorrt.log.last_error() if len(tensorrt.log.errors) > errors_before else "no reason given"
        raise EngineError(f"{tensorrt.flavour} {tensorrt.version} cannot build this network for {capability}: {reason}")
    return EngineBuild(
        flavour=tensorrt.flavour.value,
        tensorrt_version=tensorrt.version,
        platform=tensorrt.platform,
        compute_capability=capability,
        bytes=writer.written,
        seconds=time.perf_counter() - start,
        layers=rebuilt.network.num_layers,
    )


def _configure(
    tensorrt: TensorRT,
    rebuilt: RebuiltNetwork,
    profiles: Sequence[Mapping[str, ShapeRange]],
    capability: str | None,
    workspace_bytes: int | None,
) -> Any:
    trt, builder = tensorrt.module, rebuilt.builder
    config = builder.create_builder_config()
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            # The names of shape tensors are the contract's: the network knows which they are only once it is compiled.
            set_range = profile.set_shape_input if name in SHAPE_TENSORS else profile.set_shape
            set_range(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if capability is not None and tensorrt.builds_ahead_of_time:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0)
    return config


def _writer(tensorrt: TensorRT, destination: BinaryIO) -> Any:
    """An ``IStreamWriter`` into ``destination`` that counts; a failed write (a full disk) ends the build."""

    class Writer(tensorrt.module.IStreamWriter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            tensorrt.module.IStreamWriter.__init__(self)
            self.written = 0
            self.failure: OSError | None = None

        def write(self, data: Any) -> int:
            view = memoryview(data)
            try:
                destination.write(view)
            except OSError as error:
                self.failure = error
                return 0
            self.written += view.nbytes
            return view.nbytes

    return Writer()


def _monitor(tensorrt: TensorRT, progress: Progress | None) -> Any:
    """An ``IProgressMonitor`` that reports to ``progress`` and turns Ctrl-C into a cancelled build.

    TensorRT calls it between steps; that is also where Python gets to see the signal.
    """

    class Monitor(tensorrt.module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            tensorrt.module.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.interrupted: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self.report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self.report(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            self.report(phase_name, self.steps.pop(phase_name, 0))

        def report(self, phase: str, done: int) -> bool:
            try:
                if progress is not None and not progress(phase, done, self.steps.get(phase, done)):
                    self.interrupted = self.interrupted or KeyboardInterrupt()
            except KeyboardInterrupt as interrupt:
                self.interrupted = interrupt
            return self.interrupted is None

    return Monitor()


class ProgressBars:
    """Progress of a build as tqdm bars on a terminal, one for each of TensorRT's nested phases."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bars: dict[str, Any] = {}
        self.enabled = sys.stderr.isatty()

    def __call__(self, phase: str, done: int, total: int) -> bool:
        """Draw the state of one phase; always continues."""
        if not self.enabled:
            return True
        from tqdm import tqdm

        if phase not in self.bars:
            self.bars[phase] = tqdm(total=total, desc=f"{self.title}: {phase}"[:60], leave=False, unit="step")
        bar = self.bars[phase]
        bar.n = done
        bar.refresh()
        if done >= total:
            self.bars.pop(phase).close()
        return True

    def close(self) -> None:
        """Take all bars off the terminal."""
        for bar in self.bars.values():
            bar.close()
        self.bars.clear()
