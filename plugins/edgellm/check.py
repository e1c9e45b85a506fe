"""Inspecting a plugin library in a separate process. Torch-free.

TensorRT-RTX has a plugin registry, but its file is not named like TensorRT's, which the library loads. A temporary folder
with links provides it under that name, so a library can be inspected without standard TensorRT.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tt_edge import tensorrt_api
from tt_edge.errors import EngineError
from tt_edge.plugins.edgellm.library import find_library

#: The file name of TensorRT that a library built for TensorRT 11 loads.
_TENSORRT = "libnvinfer.so.11"


def check_library(path: str | Path | None = None) -> dict[str, Any]:
    """Load a plugin library and read the contract of its AttentionPlugin.

    The result has ``library``, ``tensorrt``, ``creators``, ``interface``, ``fields`` (name to type) and ``generation``,
    or ``error`` instead of what could not be read. Raises ``EngineError`` when loading ends the process.
    """
    library = find_library(path)
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as folder:
        for name, target in _links():
            (Path(folder) / name).symlink_to(target)
        search = os.pathsep.join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
        process = subprocess.run(
            [sys.executable, "-m", "tt_edge.plugins.edgellm.probe", str(library.resolve())],
            env={**os.environ, "LD_LIBRARY_PATH": search},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        reason = (process.stderr.splitlines() or ["no message"])[-1]
        raise EngineError(f"loading {library} ends the process (status {process.returncode}): {reason}")
    return {"library": str(library), **json.loads(lines[-1])}


def _links() -> Iterator[tuple[str, Path]]:
    """File names that a plugin library loads, and the files of Python packages to use for them."""
    if tensorrt_api.load().flavour is tensorrt_api.Flavour.RTX:
        for file in _files("tensorrt_rtx_libs", "libtensorrt_rtx.so.*"):
            yield _TENSORRT, file
    for pattern in ("libcudart.so.*", "libnvrtc.so.*"):
        for file in _files("nvidia", f"cu*/lib/{pattern}"):
            yield file.name, file
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver: the stub library of a CUDA toolkit, if installed, is enough for inspection
        stubs = sorted(Path("/usr/local").glob("cuda*/**/stubs/libcuda.so"))
        if stubs:
            yield "libcuda.so.1", stubs[0]


def _files(package: str, pattern: str) -> list[Path]:
    """The first file of an installed package that matches, if any."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return [file for folder in folders for file in sorted(Path(folder).glob(pattern))][:1]
