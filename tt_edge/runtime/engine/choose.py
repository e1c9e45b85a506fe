"""Choosing how to run a bundle on this machine."""

from __future__ import annotations

import logging
import platform
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tt_edge import cuda
from tt_edge.bundle.manifest import Part
from tt_edge.config import Backend, TowerAttention
from tt_edge.errors import EngineError, InvalidInputError, TTEdgeError
from tt_edge.plugins.edgellm import vit_contract
from tt_edge.plugins.edgellm.library import load_library
from tt_edge.runtime.engine.session import Session
from tt_edge.tensorrt_api import Flavour, installed, load

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle, EngineRecord
    from tt_edge.runtime.engine.vision_session import VisionSession

_LOGGER = logging.getLogger("tt_edge")


class Runtime(StrEnum):
    """What runs a bundle."""

    #: An engine where one fits this machine, or else the reference.
    AUTO = "auto"
    #: An engine, or an error.
    TENSORRT = "tensorrt"
    #: NumPy, on any machine.
    REFERENCE = "reference"


@dataclass(frozen=True)
class Machine:
    """What decides whether an engine runs here. ``compute_capability`` is ``None`` without a usable GPU."""

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
        """Why an engine of a manifest does not run here, or ``None`` where it does."""
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
        """The installed TensorRT that reads ``engine``, if any: the very version that built it or, for a
        version-compatible engine, a later one of the same major version, the small runtimes included."""
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


def open_session(bundle: Bundle, runtime: str = "auto", machine: Machine | None = None) -> Session:
    """A session for ``bundle``: by an engine that fits ``machine`` (default: this one) or by the reference.

    Raises ``InvalidInputError`` for an unknown ``runtime``, and ``EngineError`` for ``tensorrt`` when no engine fits.
    An engine that fits but does not load is an error, with ``auto`` too: a silent fallback would hide it.
    """
    if runtime not in list(Runtime):
        raise InvalidInputError(f"runtime {runtime!r} is unknown; choose one of {', '.join(Runtime)}")
    if runtime != Runtime.REFERENCE:
        machine = machine or Machine.detect()
        engine = _fitting(bundle, Part.LLM, machine)
        if engine is not None:
            return _open_engine(bundle, engine, machine)
        if runtime == Runtime.TENSORRT or not bundle.has_network:
            otherwise = (
                f"build one here with `tt-edge build {bundle.path}`, or use --runtime reference"
                if bundle.has_network
                else "it ships engines only, so build one from the bundle that it was made from"
            )
            raise EngineError(
                f"no engine of the bundle fits this machine ({machine}); it has: {_misfits(bundle, machine) or 'none'}; "
                f"{otherwise}"
            )
        if bundle.manifest.engines:
            _LOGGER.warning(
                "no engine fits this machine, so NumPy evaluates the network, slowly: %s", _misfits(bundle, machine)
            )
    from tt_edge.runtime.engine.reference_session import ReferenceSession

    return ReferenceSession(bundle.network(), bundle.manifest.contract)


def open_vision(bundle: Bundle, runtime: str = "auto", machine: Machine | None = None) -> VisionSession:
    """What runs the vision network of ``bundle``, chosen and refused as ``open_session`` does."""
    from tt_edge.runtime.engine.vision_session import ReferenceVision, TensorRTVision

    contract = bundle.manifest.vision
    assert contract is not None
    if runtime != Runtime.REFERENCE:
        machine = machine or Machine.detect()
        engine = _fitting(bundle, Part.VISION, machine)
        if engine is not None:
            flavour = machine.runtime_for(engine)
            assert flavour is not None
            tensorrt = load(flavour)
            if bundle.manifest.config.vision_attention is TowerAttention.PLUGIN:  # or TensorRT cannot read the engine
                load_library(tensorrt.module, name=vit_contract.NAME)
            return TensorRTVision(
                bundle.file(engine.file),
                contract,
                tensorrt,
                weights=bundle.weights(Part.VISION) if engine.stripped else None,
                holds_host_code=engine.version_compatible,
            )
        if runtime == Runtime.TENSORRT or not bundle.has_network:
            raise EngineError(
                f"no vision engine of the bundle fits this machine ({machine}); build one with `tt-edge build {bundle.path}`"
            )
    return ReferenceVision(bundle.network(Part.VISION), contract)


def _fitting(bundle: Bundle, part: Part, machine: Machine) -> EngineRecord | None:
    engines = bundle.manifest.engines
    return next((e for e in engines if e.part == part and machine.misfit(e) is None), None)


def _open_engine(bundle: Bundle, engine: EngineRecord, machine: Machine) -> Session:
    from tt_edge.runtime.engine.tensorrt_session import TensorRTSession

    flavour = machine.runtime_for(engine)
    assert flavour is not None
    tensorrt = load(flavour)
    if bundle.manifest.config.backend is Backend.PLUGIN:  # or TensorRT cannot read the engine
        load_library(tensorrt.module)
    return TensorRTSession(
        bundle.file(engine.file),
        bundle.manifest.contract,
        tensorrt,
        weights=bundle.weights() if engine.stripped else None,
        holds_host_code=engine.version_compatible,
    )


def _misfits(bundle: Bundle, machine: Machine) -> str:
    return ", ".join(
        f"{e.compute_capability} ({e.flavour} {e.tensorrt_version}): {machine.misfit(e)}"
        for e in bundle.manifest.engines
    )
