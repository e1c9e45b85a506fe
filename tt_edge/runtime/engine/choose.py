"""Choosing how to run a bundle on this machine."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from tt_edge import cuda
from tt_edge.bundle.manifest import DECODER, part_file
from tt_edge.compat import StrEnum
from tt_edge.contract import FedBy, IOContract
from tt_edge.errors import EngineError, InvalidInputError, TTEdgeError
from tt_edge.network.storage import NETWORK_FILE, WEIGHTS_FILE
from tt_edge.tensorrt_api import Flavour, installed, load

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle, EngineRecord
    from tt_edge.runtime.engine.feed_forward import FeedForward
    from tt_edge.runtime.engine.session import Session

_LOGGER = logging.getLogger("tt_edge")


class Runtime(StrEnum):
    """The runtime that runs a bundle."""

    #: An engine if one fits this machine, otherwise the reference.
    AUTO = "auto"
    #: An engine, or an error.
    TENSORRT = "tensorrt"
    #: NumPy, on any machine.
    REFERENCE = "reference"
    #: The same, with CuPy on a GPU.
    REFERENCE_CUDA = "reference-cuda"


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that decide whether an engine runs on it. ``compute_capability`` is ``None`` without a
    usable GPU."""

    platform: str
    compute_capability: str | None
    tensorrt: dict[str, str]  # flavour to version

    @classmethod
    def detect(cls) -> Machine:
        try:
            capability = cuda.compute_capability()
        except TTEdgeError:
            capability = None
        versions = {}
        for flavour in installed():
            try:
                versions[str(flavour)] = load(flavour).version
            except TTEdgeError:  # installed but unusable counts as absent
                continue
        return cls(f"{platform.system().lower()}_{platform.machine().lower()}", capability, versions)

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.tensorrt.items()) or "no TensorRT"
        gpu = self.compute_capability or "no usable NVIDIA GPU"
        return f"{self.platform}, {gpu}, {packages}"

    def misfit(self, engine: EngineRecord) -> str | None:
        """Why an engine of a manifest does not run here; ``None`` if it does."""
        if engine.platform != self.platform:
            return f"it is for {engine.platform}, this is {self.platform}"
        if self.compute_capability is None:
            return "there is no usable NVIDIA GPU"
        if engine.compute_capability != self.compute_capability:
            return f"it is for {engine.compute_capability}, this GPU is {self.compute_capability}"
        if self.runtime_for(engine) is None:
            here = ", ".join(f"{name} {version}" for name, version in self.tensorrt.items()) or "no TensorRT"
            needs = f"{engine.flavour} {engine.tensorrt_version}"
            return f"it needs {needs}{' or later' if engine.version_compatible else ''}, here is {here}"
        return None

    def runtime_for(self, engine: EngineRecord) -> Flavour | None:
        """The installed TensorRT that can load ``engine``, if any: the same version that built it or, for a
        version-compatible engine, a later one of the same major version, including the lean and dispatch runtimes."""
        if self.tensorrt.get(engine.flavour) == engine.tensorrt_version:
            return Flavour(engine.flavour)
        if engine.version_compatible:
            built = _version(engine.tensorrt_version)
            for flavour in (Flavour.STANDARD, Flavour.LEAN, Flavour.DISPATCH):
                here = _version(self.tensorrt.get(flavour, "0"))
                if here[0] == built[0] and here >= built:
                    return flavour
        return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)) or (0,)


@overload
def open_part(
    bundle: Bundle, part: Literal["decoder"] = DECODER, runtime: str = "auto", machine: Machine | None = None
) -> Session: ...
@overload
def open_part(
    bundle: Bundle, part: Literal["vision", "encoder"], runtime: str = "auto", machine: Machine | None = None
) -> FeedForward: ...
@overload
def open_part(
    bundle: Bundle, part: str, runtime: str = "auto", machine: Machine | None = None
) -> FeedForward | Session: ...
def open_part(
    bundle: Bundle, part: str = DECODER, runtime: str = "auto", machine: Machine | None = None
) -> FeedForward | Session:
    """Open a part of ``bundle``: with an engine that fits ``machine`` (default: this one) or with the reference.

    Returns a ``Session`` for a part that runs in steps, such as the decoder, and a ``FeedForward`` for any other. Raises
    ``InvalidInputError`` for an unknown ``runtime``, and ``EngineError`` for ``tensorrt`` when no engine fits. An engine that
    fits but does not load is an error, with ``auto`` too: a silent fallback would hide it.
    """
    if runtime not in list(Runtime):
        raise InvalidInputError(f"runtime {runtime!r} is unknown; choose one of {', '.join(Runtime)}")
    contract, arrays = bundle.manifest.part(part), np
    if runtime == Runtime.REFERENCE_CUDA:
        from tt_edge.network.reference.device import cupy

        arrays = cupy()
    elif runtime != Runtime.REFERENCE:
        machine = machine or Machine.detect()
        engines = bundle.manifest.engines_of(part)
        engine = next((e for e in engines if machine.misfit(e) is None), None)
        if engine is not None:
            from tt_edge.runtime.engine.open_engine import open_engine

            flavour = machine.runtime_for(engine)
            assert flavour is not None
            return open_engine(bundle, engine, flavour, has_steps=_has_steps(contract))
        if runtime == Runtime.TENSORRT or not bundle.has_network:
            otherwise = (
                f"build one here with `tt-edge build {bundle.path}`, or use --runtime reference"
                if bundle.has_network
                else "it ships engines only, so build one from the bundle that it was made from"
            )
            raise EngineError(
                f"no {part} engine of the bundle fits this machine ({machine}); it has: {_misfits(engines, machine) or 'none'}; "
                f"{otherwise}"
            )
        if engines:
            _LOGGER.warning(
                "no %s engine fits this machine, so NumPy evaluates the network, slowly: %s",
                part,
                _misfits(engines, machine),
            )
    from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
    from tt_edge.runtime.engine.reference_session import ReferenceSession

    kind = ReferenceSession if _has_steps(contract) else ReferenceFeedForward
    return kind(bundle.network(part), contract, arrays)


def files_to_run(bundle: Bundle, runtime: str = "auto") -> list[str]:
    """The large files that ``open_part`` will need for all parts, as far as that is known without looking at the machine."""
    files, evaluated = [], runtime in (Runtime.REFERENCE, Runtime.REFERENCE_CUDA)
    for part in bundle.manifest.parts:
        engines = bundle.manifest.engines_of(part) if not evaluated else ()
        if len(engines) == 1 and not engines[0].stripped:
            files.append(engines[0].file)
        elif not engines and runtime != Runtime.TENSORRT:
            files += [part_file(part, name) for name in (NETWORK_FILE, WEIGHTS_FILE)]
    return files


def _has_steps(contract: IOContract) -> bool:
    """Whether the part is called step by step with tokens, instead of once with all inputs."""
    return any(contract.inputs_fed_by(source) for source in (FedBy.STEP, FedBy.EDGE_LLM))


def _misfits(engines: Sequence[EngineRecord], machine: Machine) -> str:
    return ", ".join(f"{e.compute_capability} ({e.flavour} {e.tensorrt_version}): {machine.misfit(e)}" for e in engines)
