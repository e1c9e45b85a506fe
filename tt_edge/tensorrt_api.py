"""Selecting a TensorRT package and describing its capabilities. Torch-free.

Standard TensorRT (``tensorrt``), TensorRT-RTX (``tensorrt_rtx``), and the lean and dispatch runtimes share one Python
API; they differ in what is present (a builder, plugins, ahead-of-time targets) and in where their engines run. The
rest of the package asks for a ``TensorRT`` here and checks its capabilities, never the package name.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import logging
import platform
import re
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from tt_edge.compat import StrEnum
from tt_edge.errors import MissingDependencyError

_LOGGER = logging.getLogger("tt_edge.tensorrt")


class Flavour(StrEnum):
    """A TensorRT distribution. The value is its Python package."""

    STANDARD = "tensorrt"
    RTX = "tensorrt_rtx"
    #: Runs version-compatible engines; no builder.
    LEAN = "tensorrt_lean"
    #: Picks a lean runtime by the engine's version; no builder.
    DISPATCH = "tensorrt_dispatch"


@dataclass(frozen=True)
class TensorRT:
    """A loaded TensorRT package."""

    flavour: Flavour
    module: Any  # the package; its bindings carry no type information
    version: str

    @property
    def can_build(self) -> bool:
        return hasattr(self.module, "Builder")

    @property
    def has_plugins(self) -> bool:
        """Whether networks take V3 plugins (TensorRT-RTX's do not)."""
        return self.can_build and hasattr(self.module.INetworkDefinition, "add_plugin_v3")

    @property
    def builds_ahead_of_time(self) -> bool:
        """Whether engines can be built for named compute capabilities, without a GPU."""
        return self.can_build and hasattr(self.module, "ComputeCapability")

    @property
    def has_lean_runtime(self) -> bool:
        """Whether it can build engines that later versions can run."""
        return self.can_build and self.flavour is Flavour.STANDARD

    @property
    def has_timing_cache(self) -> bool:
        """Whether builds reuse timings of earlier ones (TensorRT-RTX times nothing: it compiles when it runs)."""
        return self.can_build and self.flavour is Flavour.STANDARD

    @property
    def platform(self) -> str:
        """Operating system and processor that engines of this package run on, e.g. ``linux_x86_64``."""
        return f"{platform.system().lower()}_{platform.machine().lower()}"

    @property
    def logger(self) -> Any:
        """The package's one logger (TensorRT keeps the first that it is given): see ``Log``."""
        return _logger(self.flavour)[0]

    @property
    def log(self) -> Log:
        """TensorRT's messages so far."""
        return _logger(self.flavour)[1]


# TensorRT logs these when it finds no GPU, which is normal for ahead-of-time builds.
_EXPECTED_WITHOUT_GPU = ("cudaError 35", "cudaError 100", "Unable to determine GPU memory usage")


@dataclass
class Log:
    """TensorRT's messages: errors are kept for the exception that follows them, warnings go to ``logging``."""

    errors: list[str] = field(default_factory=list)

    def record(self, severity: str, message: str) -> None:
        """Record one message; ``severity`` is TensorRT's name of the level."""
        if any(text in message for text in _EXPECTED_WITHOUT_GPU):
            return
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message)
        level = {"WARNING": logging.INFO, "INFO": logging.DEBUG, "VERBOSE": logging.DEBUG}.get(
            severity, logging.WARNING
        )
        _LOGGER.log(level, "%s", message)

    def last_error(self) -> str:
        """The most recent error's text, without TensorRT's source position; "" when there is none."""
        if not self.errors:
            return ""
        text = re.sub(r" In \w+ at \S+:\d+", "", self.errors[-1])
        return text.strip().rstrip(".)") + (")" if text.count("(") > text.strip().rstrip(".)").count(")") else "")


@cache
def _logger(flavour: Flavour) -> tuple[Any, Log]:
    module = importlib.import_module(flavour.value)
    log = Log()

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind11 wants its own constructor called, not super()'s

        def log(self, severity: Any, message: str) -> None:
            log.record(severity.name, message)

    return Logger(), log


def _is_importable(name: str) -> bool:
    # Not importlib.util.find_spec: torch_tensorrt's RTX build puts a proxy for tensorrt_rtx into sys.modules["tensorrt"],
    # which must not be taken for standard TensorRT.
    return importlib.machinery.PathFinder.find_spec(name) is not None


def installed() -> list[Flavour]:
    """Flavours whose package is installed, standard TensorRT first."""
    return [flavour for flavour in Flavour if _is_importable(flavour.value)]


@cache
def load(flavour: Flavour | None = None) -> TensorRT:
    """Load a TensorRT package: the given one, or the first of standard, RTX, lean, dispatch that imports.

    Raises ``MissingDependencyError`` when none does, with what to install.
    """
    candidates = [flavour] if flavour else list(Flavour)
    reasons = []
    for candidate in candidates:
        if not _is_importable(candidate.value):
            continue
        try:
            module: ModuleType = importlib.import_module(candidate.value)
            return TensorRT(candidate, module, str(module.__version__))  # type: ignore[attr-defined]
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            reasons.append(f"{candidate}: {error}")
    wanted = flavour or "TensorRT"
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise MissingDependencyError(
        f"{wanted} is not usable here{why}; install tt-edge[rtx] for TensorRT-RTX or tt-edge[trt] for standard TensorRT"
    )
