"""The target's side runs on Python 3.10, which JetPack 6.2 has, and its dependencies are there for aarch64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: What a target installs; ``tt_edge.compile`` and what belongs to it run on the host.
HOST = {"compile"}


def test_nothing_newer_than_python_3_10_is_used():
    """By a static check: vermin knows in which version each name of the standard library came."""
    pytest.importorskip("vermin")
    folders = [
        str(p) for p in sorted((ROOT / "tt_edge").iterdir()) if p.name not in {*HOST, "compat.py", "__pycache__"}
    ]
    command = [sys.executable, "-c", "import vermin; vermin.main()", "-t=3.10-", "--no-tips", "--violations"]
    folders += [str(ROOT / "plugins" / name) for name in ("edgellm", "cuda")]
    ran = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.heavy
@pytest.mark.parametrize(("python", "cuda"), [("3.10", "cuda-bindings<13"), ("3.12", "cuda-bindings")])
def test_dependencies_are_there_for_aarch64(tmp_path, python, cuda):
    """``pip install tt-edge[runtime,serve,vlm]`` on a Jetson: a wheel of each package, none to be compiled."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["runtime"], *extras["serve"], *extras["vlm"], cuda]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28)]
    platforms += ["--platform=manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={python}"]
    ran = subprocess.run(
        [*command, *platforms, "--implementation=cp", f"--dest={tmp_path}", *wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No matching distribution" not in ran.stderr and "Could not find" not in ran.stderr and ran.returncode:
        pytest.skip(f"packages cannot be had here: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    assert any("aarch64" in file.name for file in tmp_path.iterdir())
