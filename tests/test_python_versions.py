"""The target's side runs on Python 3.10, which JetPack 6.2 has, and its dependencies are there for aarch64."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["runtime"], *extras["serve"], *extras["vlm"], cuda]
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


#: Other Pythons than that of these tests, which run them here. ``TT_EDGE_PYTHONS=all`` runs every test that needs no PyTorch on all
#: of them; otherwise JetPack 6.2's Python runs the fast ones.
PYTHONS = ("3.10", "3.12", "3.13", "3.14")
ALL = os.environ.get("TT_EDGE_PYTHONS") == "all"
TESTS = ["network", "contract", "doctor", "runtime/engine", "plugins/edgellm", "test_platforms.py"]
if ALL:
    TESTS = ["network", "contract", "doctor", "runtime", "plugins/edgellm", "bundle", "config", "proof", "roofline",
             "test_platforms.py", "test_atomic.py", "test_folder.py", "test_number_formats.py", "test_strict_json.py"]  # fmt: skip
#: Imports every module that a target uses; the server's need their extra.
IMPORTS = """
import importlib, pkgutil, sys, tt_edge
for name in [module.name for module in pkgutil.walk_packages(tt_edge.__path__, "tt_edge.", onerror=lambda name: None)]:
    if name.startswith(tuple(f"tt_edge.{package}" for package in sys.argv[1:])) and not name.endswith("__main__"):
        importlib.import_module(name)
print(len(sys.modules))
"""
PACKAGES = ["network", "bundle", "runtime", "doctor", "proof", "contract", "config", "roofline", "cli"] + [
    "server"
] * ALL
#: Packages that a target does not have. A test module that imports one is skipped, and so is a test.
ABSENT = ("torch", "torchvision", "transformers", "safetensors", "tensorrt", "tensorrt_rtx", "playwright", "openai")


@pytest.mark.heavy
@pytest.mark.parametrize("version", PYTHONS if ALL else PYTHONS[:1])
def test_tests_of_the_target_pass(tmp_path, version):
    """In a virtual environment with the dependencies of the base and ``runtime`` (``all``: also ``serve`` and ``vlm``)."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        pytest.skip("these tests run on it")
    tree = target_tree(tmp_path / "tree")
    tests = [f"tests/{name}" for name in TESTS]
    python = environment_of(version)
    pytest_ = ["-m", "pytest", "-v", "--quiet", "-p", "no:cacheprovider", *tests]
    for command, path in ((["-c", IMPORTS, *PACKAGES], tree), (pytest_, tree / "absent")):
        settings = os.environ | {"PYTHONPATH": str(path), "PYTEST_ADDOPTS": ""}
        ran = subprocess.run([python, *command], cwd=tree, env=settings, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout


def target_tree(folder: Path) -> Path:
    """The package as it is installed, and the tests, without the packages of the host."""
    for name in ("tt_edge", "tests", "examples", "benchmarks", "docs", "README.md", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        folder.mkdir(exist_ok=True)
        copy(ROOT / name, folder / name)
    for name in ("lowering", "plugins"):
        shutil.copytree(ROOT / name, folder / "tt_edge" / name)
    (folder / "absent").mkdir()
    for name in ABSENT:
        skip = f'import pytest\npytest.skip("{name} is not on a target", allow_module_level=True)\n'
        (folder / "absent" / f"{name}.py").write_text(skip)
    return folder


def environment_of(version: str) -> Path:
    """The interpreter of a virtual environment, which is kept in the user's cache; skips the test where it cannot be made."""
    found = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    base = next((python for python in found if python), None)
    if base is None:
        pytest.skip(f"there is no Python {version} here")
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *extras["runtime"],
        *extras["serve"],
        *extras["vlm"],
        "pytest>=9,<9.2",
        "hypothesis",
        "httpx",
    ]
    name = hashlib.sha256(f"{base} {wanted}".encode()).hexdigest()[:12]
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tt-edge" / "pythons"
    root.mkdir(parents=True, exist_ok=True)
    folder, done = root / f"{version}-{name}", root / f"{version}-{name}.installed"
    with (root / f"{version}-{name}.lock").open("w") as lock:  # several test processes may want it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            subprocess.run([base, "-m", "venv", "--clear", "--without-pip", folder], check=True)
            pip = [
                sys.executable,
                "-m",
                "pip",
                "--python",
                folder / "bin" / "python",
                "install",
                "--quiet",
                "--no-compile",
            ]
            ran = subprocess.run([*pip, "--only-binary=:all:", *wanted], capture_output=True, text=True, check=False)
            if "NewConnectionError" in ran.stderr:
                pytest.skip("no package index can be reached")
            assert ran.returncode == 0, ran.stderr  # a range of pyproject.toml that this Python cannot have is a fault
            done.touch()
    return folder / "bin" / "python"
