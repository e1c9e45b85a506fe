"""TensorRT packages that can be imported, with what each can do; and plugin libraries with their contracts."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from tt_edge import tensorrt_api
from tt_edge.errors import TTEdgeError, one_line
from tt_edge.plugins.edgellm.check import check_library
from tt_edge.plugins.edgellm.contracts import OWN_CONTRACT
from tt_edge.plugins.edgellm.library import find_library, find_own_library
from tt_edge.tensorrt_features import FEATURES, features_of


@dataclass(frozen=True)
class Package:
    """A TensorRT package that is installed. ``features`` are names of ``tt_edge.tensorrt_features``, and ``missing`` those that it
    lacks. ``error`` says why it cannot be used; then the rest is empty."""

    flavour: str
    version: str = ""
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    has_builder: bool = False
    has_plugins: bool = False
    builds_ahead_of_time: bool = False
    error: str = ""


@dataclass(frozen=True)
class Library:
    """A plugin library, with the contract of its attention plugin, or why that could not be found out."""

    path: str
    contract: str = ""
    error: str = ""


def read_packages() -> tuple[Package, ...]:
    """Every TensorRT package that is installed."""
    return tuple(_package(flavour) for flavour in tensorrt_api.installed())


def _package(flavour: tensorrt_api.Flavour) -> Package:
    try:
        tensorrt = tensorrt_api.load(flavour)
    except TTEdgeError as error:
        return Package(flavour.value, error=one_line(error))
    has = features_of(tensorrt.module)
    return Package(
        flavour.value,
        tensorrt.version,
        features=tuple(feature.name for feature in FEATURES if feature in has),
        missing=tuple(feature.name for feature in FEATURES if feature not in has),
        has_builder=tensorrt.can_build,
        has_plugins=tensorrt.has_plugins,
        builds_ahead_of_time=tensorrt.builds_ahead_of_time,
    )


def system_bindings(root: Path = Path("/")) -> str | None:
    """The folder of TensorRT's bindings of the system's Python, where there are such.

    A JetPack installs them as a Debian package for its own Python; a virtual environment sees them only if it is told to.
    """
    for place in ("usr/lib/python3/dist-packages", "usr/lib/python3.*/dist-packages"):
        for folder in root.glob(f"{place}/tensorrt"):
            return str(Path("/") / folder.relative_to(root).parent)
    return None


def read_library(path: str | None = None) -> Library | None:
    """The plugin library that would be used, or ``None`` where none is installed."""
    found = None
    for find in (find_library, find_own_library):
        try:
            found = found or find(path)
        except TTEdgeError:
            continue
    if found is None:
        return None
    try:
        result = check_library(found)
    except TTEdgeError as error:
        return Library(str(found), error=one_line(error))
    contract = OWN_CONTRACT if "plugins" in result else str(result.get("generation", ""))
    return Library(str(found), contract, str(result.get("error", "")))


def python() -> str:
    """This Python and machine."""
    return f"Python {platform.python_version()} on {platform.machine()} ({sys.executable})"
