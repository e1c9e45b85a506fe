"""The real Python bindings of TensorRT's releases, over empty libraries.

The bindings are on PyPI, complete; TensorRT's libraries are not needed to look at classes, signatures, properties and
enums. What is downloaded (1 MB a release) and compiled is kept in ``$XDG_CACHE_HOME/tt-edge/bindings``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("empty_libraries.c")
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvinfer_lean", "nvinfer_dispatch")


@dataclass(frozen=True)
class Release:
    """One release's bindings: a package of PyPI, its version, and the module that it is imported as."""

    package: str
    version: str
    module: str = "tensorrt"

    @property
    def name(self) -> str:
        """Such as ``10.13``, and with the runtime where it is not TensorRT's own."""
        number = ".".join(self.version.split(".")[:2])
        return number if self.module == "tensorrt" else f"{self.module}-{number}"

    def environment(self) -> dict[str, str]:
        """Environment of a process in which ``import`` finds these bindings; skips the test where they cannot be had."""
        folder = _installed(self)
        return os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}",
            "LD_LIBRARY_PATH": str(folder / "lib"),
        }


#: JetPack 6.2 has 10.3, DRIVE OS 7.0 10.10, JetPack 7.1 10.13.3, JetPack 7.2 10.16.2 (not on PyPI; 10.16.1 stands for it).
#: 10.7 and 10.8 are the first releases with what networks need in place of the rules for older ones.
RELEASES = {
    release.name: release
    for release in (
        Release("tensorrt-cu12-bindings", "10.3.0"),
        Release("tensorrt-cu12-bindings", "10.7.0"),
        Release("tensorrt-cu12-bindings", "10.8.0.43"),
        Release("tensorrt-cu12-bindings", "10.10.0.31"),
        Release("tensorrt-cu13-bindings", "10.13.3.9"),
        Release("tensorrt-cu13-bindings", "10.14.1.48.post1"),
        Release("tensorrt-cu13-bindings", "10.15.1.29"),
        Release("tensorrt-cu13-bindings", "10.16.1.11"),
        Release("tensorrt-cu13-bindings", "11.0.0.114"),
        Release("tensorrt-cu13-bindings", "11.1.0.106"),
        Release("tensorrt-cu13-bindings", "11.4.0.106"),
    )
}

#: The last releases before those in which a feature is new, as far as they are not among ``RELEASES``.
BEFORE = {
    release.name: release
    for release in (Release("tensorrt-cu12-bindings", "10.6.0"), Release("tensorrt-cu12-bindings", "10.12.0.36"))
}

#: The small runtimes, which have no builder.
RUNTIMES = {
    release.name: release
    for release in (
        Release(f"tensorrt-{kind}-{cuda}-bindings", version, f"tensorrt_{kind}")
        for kind in ("lean", "dispatch")
        for cuda, version in (("cu12", "10.3.0"), ("cu13", "10.16.1.11"), ("cu13", "11.4.0.106"))
    )
}


def _installed(release: Release) -> Path:
    """The folder of a release's bindings; made when it is not there yet."""
    return kept(release.package, release.version, lambda folder: _link(release, folder))


def kept(package: str, version: str, finish: Callable[[Path], None] = lambda folder: None) -> Path:
    """The folder of an unpacked wheel; downloaded, and passed to ``finish``, when it is not there yet.

    Skips the test where it cannot be had.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tt-edge" / "bindings"
    root.mkdir(parents=True, exist_ok=True)
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = root / f"{package}-{version}-{tag}"
    with (root / f"{folder.name}.lock").open("w") as lock:  # several test processes may want it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = Path(tempfile.mkdtemp(dir=root))
            try:
                _unpack(package, version, partial)
                finish(partial)
                partial.rename(folder)
            except BaseException:
                shutil.rmtree(partial)
                raise
    return folder


def _unpack(package: str, version: str, folder: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
    ]
    result = subprocess.run([*pip, f"{package}=={version}"], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no wheel"])[-1]
        pytest.skip(f"{package} {version} cannot be had here: {reason}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder)
    wheels[0].unlink()


def _link(release: Release, folder: Path) -> None:
    # The package that users install re-exports the bindings under this name.
    (folder / release.module).symlink_to(f"{release.module}_bindings")
    major = release.version.partition(".")[0]
    (folder / "lib").mkdir()
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        compile_ = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", str(_SOURCE), "-o", str(folder / "lib" / name)]
        subprocess.run(compile_, check=True)
