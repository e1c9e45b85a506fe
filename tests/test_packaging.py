"""pyproject.toml lists every package and every data file: what is missing there is missing in an installed tt-edge."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import tomllib

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
#: Top-level folders, and the package that each is installed in.
TOPS = {"tt_edge": "", "lowering": "tt_edge.", "plugins": "tt_edge."}


def packages() -> dict[str, Path]:
    folders = {path.parent for top in TOPS for path in (ROOT / top).rglob("*.py")}
    return {TOPS[f.relative_to(ROOT).parts[0]] + ".".join(f.relative_to(ROOT).parts): f for f in folders}


def test_every_folder_with_code_is_a_package():
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages())


def test_lowering_and_plugins_have_their_folders():
    folders = {name: str(folder.relative_to(ROOT)) for name, folder in packages().items()}
    moved = {name: folder for name, folder in folders.items() if not folder.startswith("tt_edge")}
    assert SETUPTOOLS["package-dir"] == moved


def test_every_other_file_is_package_data():
    for top in TOPS:
        for file in (ROOT / top).rglob("*"):
            if not file.is_file() or file.suffix in (".py", ".pyc"):
                continue
            owner = next(parent for parent in file.parents if parent in packages().values())
            name = next(name for name, folder in packages().items() if folder == owner)
            patterns = SETUPTOOLS["package-data"].get(name, [])
            assert any(fnmatch(str(file.relative_to(owner)), pattern) for pattern in patterns), file
