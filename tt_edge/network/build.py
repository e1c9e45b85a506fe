"""Building a captured network into a serialized engine, with the installed TensorRT. Torch-free.

The engine goes from the builder straight to its file (``build_serialized_network_to_stream``) if TensorRT supports that,
so there is never a second whole copy of it in memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tt_edge import cuda
from tt_edge.contract import ShapeRange, is_shape_tensor
from tt_edge.errors import EngineError, TTEdgeError
from tt_edge.network.build_io import Progress, Writable, progress_monitor, stream_writer
from tt_edge.network.build_options import BuildOptions, TimingCache
from tt_edge.network.ir import Network
from tt_edge.network.rebuild import RebuiltNetwork, rebuild
from tt_edge.tensorrt_api import TensorRT
from tt_edge.tensorrt_features import STREAM_WRITER


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
    options: BuildOptions  # as used, after unsupported ones were dropped


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
    destination: Writable,
    *,
    progress: Progress | None = None,
    options: BuildOptions | None = None,
) -> EngineBuild:
    """Build ``network`` for one compute capability and write the engine to ``destination``.

    ``target`` is a name such as ``sm89``, built ahead of time where this TensorRT can, or ``None`` for the local GPU.
    ``profiles`` become optimization profiles in order. Raises ``EngineError`` with the builder's own message when it
    refuses, and ``KeyboardInterrupt`` after the builder has stopped when Ctrl-C was pressed. In both cases the caller
    must delete what ``destination`` holds.
    """
    capability = check_target(tensorrt, target)
    options, _ = (options or BuildOptions()).fitting(tensorrt)
    rebuilt = rebuild(tensorrt, network)
    if options.strip_weights:
        rebuilt.name_weights()
    config = configure(tensorrt, rebuilt, profiles, [capability] if target else [], options)
    timings = TimingCache(tensorrt, config, options.timing_cache) if options.timing_cache else None
    monitor = progress_monitor(tensorrt, progress)
    config.progress_monitor = monitor
    errors_before = len(tensorrt.log.errors)
    start = time.perf_counter()
    writer = stream_writer(tensorrt, destination)
    if STREAM_WRITER.is_in(tensorrt.module):
        built = rebuilt.builder.build_serialized_network_to_stream(rebuilt.network, config, writer)
    else:  # before 10.13: the engine is whole in memory first
        engine = rebuilt.builder.build_serialized_network(rebuilt.network, config)
        built = engine is not None and not monitor.interrupted and bool(writer.write(engine))
    if monitor.interrupted is not None:
        raise monitor.interrupted
    if writer.failure is not None:
        raise writer.failure
    if not built:
        reason = tensorrt.log.last_error() if len(tensorrt.log.errors) > errors_before else "no reason given"
        raise EngineError(f"{tensorrt.flavour} {tensorrt.version} cannot build this network for {capability}: {reason}")
    if timings is not None:
        timings.write()
    return EngineBuild(
        flavour=tensorrt.flavour.value,
        tensorrt_version=tensorrt.version,
        platform=tensorrt.platform,
        compute_capability=capability,
        bytes=writer.written,
        seconds=time.perf_counter() - start,
        layers=rebuilt.network.num_layers,
        options=options,
    )


def configure(
    tensorrt: TensorRT,
    rebuilt: RebuiltNetwork,
    profiles: Sequence[Mapping[str, ShapeRange]],
    capabilities: Sequence[str],
    options: BuildOptions,
) -> Any:
    """The builder's configuration. ``capabilities`` such as ``sm89``: what to build for ahead of time; empty: the local GPU."""
    trt, builder = tensorrt.module, rebuilt.builder
    config = builder.create_builder_config()
    # Allows comparing the types of an engine's layers with the requested ones. It does not make the engine larger.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            # The registry says which inputs are shape tensors: the network knows only once it is compiled.
            set_range = profile.set_shape_input if is_shape_tensor(name) else profile.set_shape
            set_range(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    flags = []
    if options.version_compatible:
        flags.append(trt.BuilderFlag.VERSION_COMPATIBLE)
    if (
        options.strip_weights
    ):  # REFIT_IDENTICAL: the same weights are restored later, so optimizations may depend on their values
        flags += [trt.BuilderFlag.STRIP_PLAN, trt.BuilderFlag.REFIT_IDENTICAL]
    for flag in flags:
        config.set_flag(flag)
    if capabilities and tensorrt.builds_ahead_of_time:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), index)
    return config
