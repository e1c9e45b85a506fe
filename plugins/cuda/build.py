"""Compile the kernels of this folder with nvcc: `build_kernels`. Torch-free; needs nvcc, a C++ compiler, and no GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tt_edge.errors import InvalidInputError, MissingDependencyError, TTEdgeError
from tt_edge.plugins.edgellm.own_library import PLUGIN_LIBRARY

#: GPU architectures that the kernels are compiled for: Ampere to Blackwell, and Orin (87) and Thor (110).
ARCHITECTURES = ("80", "86", "87", "89", "90", "100", "103", "110", "120", "121")

HEAD_SIZES = (64, 80, 96, 128, 256)

_HEADER = "NvInferRuntime.h"

_SOURCES = Path(__file__).parent


@dataclass(frozen=True)
class Unit:
    """One file to compile, with its macros."""

    source: str
    macros: tuple[str, ...] = ()

    @property
    def object_name(self) -> str:
        """A file name for its result."""
        return "_".join([Path(self.source).stem, *(macro.rpartition("=")[2] for macro in self.macros)]) + ".o"


#: Everything in the library. The attention kernels, which take longest, are one unit for each head size and type.
UNITS = (
    *(
        Unit("attention.cu", (f"TT_HEAD_SIZE={size}", f"TT_TYPE={kind}"))
        for size in reversed(HEAD_SIZES)
        for kind in (0, 1)
    ),
    Unit("int4_gemm.cu"),
    Unit("row_product.cu"),
    Unit("kv_update.cu"),
    Unit("interface.cu"),
)


#: The TensorRT plugins, which need TensorRT's headers.
PLUGINS = Unit("tensorrt/plugins.cpp")


def find_nvcc() -> Path:
    """nvcc at $CUDACXX, on the PATH, of /usr/local/cuda, or of PyPI's nvidia-cuda-nvcc. Raises ``MissingDependencyError``."""
    given = os.environ.get("CUDACXX")
    candidates = [given] if given else [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    spec = None if given else find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidates += [str(path) for path in sorted(Path(folder).glob("cu*/bin/nvcc"), reverse=True)]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise MissingDependencyError(
        f"no nvcc {f'at $CUDACXX={given}' if given else 'on the PATH or in /usr/local/cuda'}; install the CUDA toolkit, or "
        "pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl"
    )


def find_headers(given: Path | None = None) -> Path | None:
    """The folder with TensorRT's headers: ``given``, one of $TT_EDGE_TENSORRT_INCLUDE, or JetPack's and Debian's; else ``None``.

    Raises ``InvalidInputError`` if ``given`` has none.
    """
    from tt_edge.plugins.edgellm.formats import INCLUDE_ENVIRONMENT

    if given is not None and not (given / _HEADER).is_file():
        raise InvalidInputError(f"--trt-include {given} has no {_HEADER}; give the folder with TensorRT's headers")
    folders = [Path(folder) for folder in os.environ.get(INCLUDE_ENVIRONMENT, "").split(os.pathsep) if folder]
    folders += sorted(Path("/usr/include").glob("*-linux-gnu"))
    return given or next((folder for folder in folders if (folder / _HEADER).is_file()), None)


def architecture(name: str) -> str:
    """``87`` of "87", "8.7" or "sm_87". Raises ``InvalidInputError`` for one that the kernels are not compiled for."""
    number = name.lower().removeprefix("sm_").removeprefix("sm").replace(".", "")
    if number not in ARCHITECTURES:
        raise InvalidInputError(f"--arch {name} is not one of {', '.join(f'sm_{each}' for each in ARCHITECTURES)}")
    return number


def architecture_here() -> str:
    """The architecture of the first GPU of this machine. Raises ``MissingDependencyError`` where there is none to ask."""
    try:
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(query, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        found = []
    if not found:
        raise MissingDependencyError("nvidia-smi shows no GPU here to compile for; give --arch, such as --arch sm_87")
    return architecture(found[0])


def compile_unit(
    unit: Unit, architectures: Sequence[str], output: Path, nvcc: Path | None = None, headers: Path | None = None
) -> None:
    """Compile one file for ``architectures`` to the object ``output``. Raises ``TTEdgeError`` with what nvcc said."""
    codes = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    macros = [f"-D{macro}" for macro in unit.macros]
    includes = [f"-I{headers}", "-Xcompiler=-Wno-deprecated-declarations"] if headers else []
    options = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", *codes, *macros, *includes]
    _nvcc([*options, "-c", str(_SOURCES / unit.source), "-o", str(output)], nvcc or find_nvcc(), unit.source)


def build_kernels(
    architectures: Sequence[str], output: Path, jobs: int | None = None, headers: Path | None = None
) -> list[Path]:
    """Compile and link the library of kernels at ``output`` (its folder is made) for the ``architectures``.

    With TensorRT's ``headers``, also ``libtt_edge_plugin.so`` beside it. ``jobs`` compilers run at a time, as many as there
    are processors unless given. Returns the libraries. Raises ``MissingDependencyError`` without nvcc, and ``TTEdgeError``
    when it fails; libraries that were there before stay.
    """
    nvcc = find_nvcc()
    output.parent.mkdir(parents=True, exist_ok=True)
    units = [*UNITS, PLUGINS] if headers else list(UNITS)
    with tempfile.TemporaryDirectory(prefix=".tt-edge-kernels-", dir=output.parent) as folder:
        objects = {unit: Path(folder) / unit.object_name for unit in units}
        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
            list(pool.map(lambda unit: compile_unit(unit, architectures, objects[unit], nvcc, headers), units))
        libraries = {output: list(UNITS), **({output.with_name(PLUGIN_LIBRARY): units} if headers else {})}
        for number, parts in enumerate(libraries.values()):
            inputs = [str(objects[unit]) for unit in parts]
            linked = str(Path(folder) / f"{number}.so")
            _nvcc(["-shared", "-cudart=static", *inputs, "-o", linked, *_library_folders(nvcc)], nvcc, "linking")
        for number, library in enumerate(libraries):
            os.replace(Path(folder) / f"{number}.so", library)
    return list(libraries)


def _library_folders(nvcc: Path) -> list[str]:
    """PyPI's packages have lib where a toolkit has lib64."""
    folder = nvcc.resolve().parent.parent / "lib"
    return [f"-L{folder}"] if folder.is_dir() else []


def _nvcc(arguments: Sequence[str], nvcc: Path, what: str) -> None:
    done = subprocess.run([str(nvcc), *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        first = next(
            (line for line in lines if "error" in line or "fatal" in line), lines[0] if lines else "no message"
        )
        raise TTEdgeError(f"{nvcc} failed on {what}: {first}")
