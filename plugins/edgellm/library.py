"""Finding and loading the library with the attention plugin, and reading its contract. Torch-free."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from tt_edge.config import Backend, CompileConfig, TowerAttention
from tt_edge.errors import EngineError, MissingDependencyError
from tt_edge.plugins.edgellm import int4_packing, vit_contract
from tt_edge.plugins.edgellm.contracts import (
    GENERATIONS,
    NAME,
    NAMESPACE,
    OWN_NAME,
    OWN_NAMESPACE,
    VERSION,
    Generation,
    Interface,
    detect,
)
from tt_edge.plugins.edgellm.own_library import PLUGIN_LIBRARY, default_library, is_own
from tt_edge.tensorrt_api import TensorRT

#: The environment variable with the library's path, for use without ``--plugin-path``.
ENVIRONMENT = "TT_EDGE_PLUGIN_PATH"

_PACKAGE, _FILE = "tensorrt_edgellm", "libNvInfer_edgellm_plugin.so"


def find_own_library(path: str | Path | None = None) -> Path:
    """tt-edge's plugins at ``path``, at ``$TT_EDGE_PLUGIN_PATH``, or where `tt-edge plugin build` puts them.

    Raises ``MissingDependencyError`` if they are not there.
    """
    given = path or os.environ.get(ENVIRONMENT)
    library = Path(given) if given else default_library().with_name(PLUGIN_LIBRARY)
    if not library.is_file():
        raise MissingDependencyError(
            f"no plugin library at {library}; run `tt-edge plugin build --trt-include DIR` with TensorRT's headers, or give "
            f"{PLUGIN_LIBRARY} with --plugin-path or ${ENVIRONMENT}"
        )
    return library


def find_library(path: str | Path | None = None, compute_capability: str | None = None) -> Path:
    """The library at ``path``, at ``$TT_EDGE_PLUGIN_PATH``, or in the installed ``tensorrt-edgellm`` package.

    The package has one library for each platform, TensorRT version and family of GPUs; the one for
    ``compute_capability`` is preferred. Raises ``MissingDependencyError`` if there is no library.
    """
    given = path or os.environ.get(ENVIRONMENT)
    if given:
        if not Path(given).is_file():
            raise MissingDependencyError(
                f"{given} is no file; give the plugin library, {_FILE}, or pip install tensorrt-edgellm"
            )
        return Path(given)
    spec = importlib.util.find_spec(_PACKAGE)  # not imported: that would load a TensorRT
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    arch = {"x86_64": "x86", "aarch64": "aarch64"}.get(platform.machine(), platform.machine())
    libraries = [file for folder in folders for file in sorted(folder.glob(f"_native/payloads/*/lib/{_FILE}"))]

    def preference(library: Path) -> tuple[bool, bool, bool]:
        variant = library.parent.parent.name  # such as x86-ubuntu2404-cu13-sm86-trt11
        return (
            not variant.startswith(arch),
            not variant.endswith("-trt11"),
            compute_capability not in variant.split("-"),
        )

    if not libraries:
        raise MissingDependencyError(
            f"no plugin library is installed; pip install tensorrt-edgellm, or give one with --plugin-path or ${ENVIRONMENT}"
        )
    return min(libraries, key=preference)


def registered_creator(trt: Any, name: str = NAME, namespace: str = NAMESPACE) -> Any:
    """The creator of a plugin in TensorRT's registry, or ``None``. All plugins have version 1, NVIDIA's no namespace."""
    return trt.get_plugin_registry().get_creator(name, VERSION, namespace)


def load_library(trt: Any, path: str | Path | None = None, name: str = NAME, namespace: str = NAMESPACE) -> Any:
    """The creator of the plugin ``name``. Loads the library unless TensorRT already has the plugin.

    Raises ``EngineError`` when the library does not load here, or has no such plugin.
    """
    if path is None and (creator := registered_creator(trt, name, namespace)) is not None:
        return creator
    library = find_own_library(path) if namespace == OWN_NAMESPACE else find_library(path)
    if is_own(library):  # it links no TensorRT; the registry asks it for its creators
        if registered_creator(trt, OWN_NAME, OWN_NAMESPACE) is None:
            trt.get_plugin_registry().load_library(str(library))
    else:
        _show_tensorrt()
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise EngineError(
                f"the plugin library does not load ({error}); it needs the TensorRT it was built for, and an NVIDIA driver"
            ) from error
    creator = registered_creator(trt, name, namespace)
    if creator is None:
        raise EngineError(
            f"{library} registers no {name} with TensorRT {trt.__version__}; give another with --plugin-path"
        )
    return creator


def load_for_building(tensorrt: TensorRT, config: CompileConfig, path: str | Path | None = None) -> None:
    """Load the library if ``config`` uses plugins, so that engines with them can be built.

    Raises ``EngineError`` if this TensorRT builds no engines with plugins, and for a library with another contract.
    """
    if not config.needs_plugins:
        return
    if not tensorrt.has_plugins:
        native = "--backend native" if config.attention.backend is Backend.PLUGIN else "--vision-attention native"
        raise EngineError(
            f"{tensorrt.flavour} {tensorrt.version} builds no engines with plugins; build where standard TensorRT and the "
            f"plugin library are installed (--engine none compiles without), or use {native}"
        )
    if config.attention.backend is Backend.PLUGIN:
        wanted = GENERATIONS[str(config.attention.plugin_contract)]
        found = contract_of(load_library(tensorrt.module, path, wanted.name, wanted.namespace)).version
        if found != wanted.version:
            raise EngineError(
                f"the plugin library is of contract {found}, not {wanted.version}; "
                f"compile with --plugin-contract {found}, or give another library with --plugin-path"
            )
    if config.vision.attention is TowerAttention.PLUGIN:
        check_fields(load_library(tensorrt.module, path, vit_contract.NAME), vit_contract.NAME)


def _show_tensorrt() -> None:
    """Make TensorRT's symbols, which its bindings load privately, visible to libraries that are loaded later."""
    maps = Path("/proc/self/maps")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines()} if maps.exists() else set()
    for file in loaded:
        if Path(file).name.startswith(("libnvinfer.so", "libtensorrt_rtx.so")):
            ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)


def interface_of(creator: Any) -> Interface:
    """The plugin interface of a creator from the bindings' registry: creators of V3 plugins report it."""
    info = getattr(creator, "interface_info", None)
    return Interface.V3 if info is not None and "V3" in str(info.kind).upper() else Interface.V2


def contract_of(creator: Any) -> Generation:
    """The generation of a registered creator. Raises ``EngineError`` for an unknown one."""
    return detect([field.name for field in creator.field_names], interface_of(creator))


#: For plugins with one contract in all generations: the sets of field names that a creator may have, and the option that
#: avoids the plugin.
_FIELDS: dict[str, tuple[tuple[frozenset[str], ...], str]] = {
    **{
        name: ((frozenset(int4_packing.FIELDS),), "--int4-gemm ootb")
        for name in (int4_packing.NAME, int4_packing.OWN_NAME)
    },
    vit_contract.NAME: (vit_contract.FIELDS, "--vision-attention native"),
}


def check_fields(creator: Any, name: str) -> None:
    """Raise ``EngineError`` unless a creator has the known fields of its plugin."""
    known, otherwise = _FIELDS[name]
    found = frozenset(field.name for field in creator.field_names)
    if found not in known:
        listed = " or ".join(", ".join(sorted(fields)) for fields in known)
        raise EngineError(
            f"the registered {name} has the fields {', '.join(sorted(found)) or 'none'}, not {listed}; install another plugin "
            f"library, or compile with {otherwise}"
        )
