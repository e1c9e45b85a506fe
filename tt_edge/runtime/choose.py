"""Choosing how to run a bundle on this machine."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tt_edge import cuda
from tt_edge.config import Backend
from tt_edge.errors import EngineError, InvalidInputError, TTEdgeError
from tt_edge.plugins.edgellm.library import load_library
from tt_edge.runtime.session import Session
from tt_edge.tensorrt_api import installed, load

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle


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

    def runs(self, engine: Any) -> bool:
        """Whether an engine record of a manifest fits: same platform, compute capability, TensorRT and version."""
        return bool(
            engine.platform == self.platform
            and engine.compute_capability == self.compute_capability
            and self.tensorrt.get(str(engine.flavour)) == engine.tensorrt_version
        )


def describe(engines: Iterable[Any]) -> str:
    """The engines of a manifest, in a few words each."""
    words = [f"{e.compute_capability} ({e.flavour} {e.tensorrt_version}, {e.platform})" for e in engines]
    return ", ".join(words) or "none"


def open_session(bundle: Bundle, runtime: str = "auto", machine: Machine | None = None) -> Session:
    """A session for ``bundle``: by an engine that fits ``machine`` (default: this one) or by the reference.

    Raises ``InvalidInputError`` for an unknown ``runtime``, and ``EngineError`` for ``tensorrt`` when no engine fits.
    An engine that fits but does not load is an error, with ``auto`` too: a silent fallback would hide it.
    """
    if runtime not in list(Runtime):
        raise InvalidInputError(f"runtime {runtime!r} is unknown; choose one of {', '.join(Runtime)}")
    contract = bundle.manifest.contract
    if runtime != Runtime.REFERENCE:
        machine = machine or Machine.detect()
        engine = next((e for e in bundle.manifest.engines if machine.runs(e)), None)
        if engine is not None:
            from tt_edge.runtime.tensorrt_session import TensorRTSession
            from tt_edge.tensorrt_api import Flavour

            tensorrt = load(Flavour(engine.flavour))
            if bundle.manifest.config.backend is Backend.PLUGIN:  # or TensorRT cannot read the engine
                load_library(tensorrt.module)
            return TensorRTSession(bundle.path_of(engine.file), contract, tensorrt)
        if runtime == Runtime.TENSORRT:
            raise EngineError(
                f"no engine of the bundle fits this machine ({machine}); it has: {describe(bundle.manifest.engines)}; "
                "compile with --engine local on this machine, or use --runtime reference"
            )
    from tt_edge.runtime.reference_session import ReferenceSession

    return ReferenceSession(bundle.network(), contract)
