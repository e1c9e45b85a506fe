"""TensorRT packages that can be imported, with what each can do; and plugin libraries with their contracts."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tt_edge import tensorrt_api
from tt_edge.errors import TTEdgeError, one_line
from tt_edge.plugins.edgellm.check import check_library
from tt_edge.plugins.edgellm.library import find_library

#: What makes a difference to bundles, by the class of the bindings that has it.
_FEATURES = {
    "INetworkDefinition": (
        "add_attention",
        "add_attention_v2",
        "add_kv_cache_update",
        "add_rotary_embedding",
        "add_normalization_v2",
        "add_squeeze",
        "add_cumulative",
        "add_dynamic_quantize",
        "add_moe",
        "add_plugin_v3",
    ),
    "Builder": ("build_serialized_network_to_stream",),
    "ICudaEngine": ("create_engine_inspector", "get_aliased_input_tensor"),
    "DataType": ("BF16", "FP8", "INT4", "FP4"),
}


@dataclass(frozen=True)
class Package:
    """A TensorRT package that is installed. ``error`` says why it cannot be used; then the rest is empty."""

    flavour: str
    version: str = ""
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    builds_ahead_of_time: bool = False
    error: str = ""


@dataclass(frozen=True)
class Library:
    """A plugin library, with the contract of its AttentionPlugin, or why that could not be found out."""

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
    features = dict(features_of(tensorrt.module))
    return Package(
        flavour.value,
        tensorrt.version,
        features=tuple(name for name, there in features.items() if there),
        missing=tuple(name for name, there in features.items() if not there),
        builds_ahead_of_time=tensorrt.builds_ahead_of_time,
    )


def features_of(module: Any) -> Iterator[tuple[str, bool]]:
    """The features of a TensorRT package by ``hasattr``; runtimes without a builder are not asked for the builder's."""
    for class_name, members in _FEATURES.items():
        owner = getattr(module, class_name, None)
        if owner is not None:
            yield from ((member, hasattr(owner, member)) for member in members)


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
    try:
        found = find_library(path)
    except TTEdgeError:
        return None
    try:
        result = check_library(found)
    except TTEdgeError as error:
        return Library(str(found), error=one_line(error))
    return Library(str(found), str(result.get("generation", "")), str(result.get("error", "")))


def python() -> str:
    """This Python and machine."""
    return f"Python {platform.python_version()} on {platform.machine()} ({sys.executable})"
