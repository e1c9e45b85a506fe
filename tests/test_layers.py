"""The import graph: layers in order, nothing imports upward, and no module imports itself in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Folders of the source tree, and what they are installed as.
PACKAGES = {"tt_edge": "tt_edge", "lowering": "tt_edge.lowering", "plugins": "tt_edge.plugins"}

#: From the bottom up; those of one line do not import each other. A module is of the longest name that it begins with.
LAYERS = [
    ["errors", "compat"],
    ["strict_json", "folder", "dtypes", "tensorrt_api", "tensorrt_features", "cuda"],
    ["atomic", "number_formats", "platforms"],
    ["config"],
    ["checkpoint_generation"],
    ["generation_config"],
    ["contract"],
    ["plugins.edgellm"],
    ["plugins.cuda"],
    ["network"],
    ["bundle", "roofline"],
    ["runtime"],
    ["server", "doctor", "evaluation", "triton"],
    ["ray"],
    ["proof"],
    ["report"],
    # Of the host, with PyTorch.
    ["plugins.ops"],
    ["plugins.converters"],
    ["lowering"],
    ["compile"],
    ["cli"],
]


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


MODULES = modules()


def imports(path: Path, *, at_run_time: bool = False, at_import: bool = False) -> Iterator[str]:
    """Modules of the package that a file imports; without those for type checkers only, or those within functions."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING" and at_run_time:
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and at_import:
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path} has a relative import"
                for alias in child.names:  # ``from package import module``, or a name of the module
                    name = f"{child.module}.{alias.name}"
                    yield name if name in MODULES else str(child.module)
            yield from visit(child)

    yield from (name for name in visit(ast.parse(path.read_bytes())) if name in MODULES)


def layer_of(module: str) -> tuple[int, str] | None:
    """Number and name of the layer of a module; ``None`` for the package itself."""
    name = module.removeprefix("tt_edge").removeprefix(".")
    found = [
        (number, layer)
        for number, names in enumerate(LAYERS)
        for layer in names
        if name == layer or name.startswith(f"{layer}.")
    ]
    return max(found, key=lambda place: len(place[1]), default=None)


def test_every_module_has_a_layer():
    packages = {"tt_edge", "tt_edge.plugins", "tt_edge.__main__"}
    assert {name for name in MODULES if layer_of(name) is None} <= packages


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nothing_imports_upward(module):
    here = layer_of(module)
    for imported in set(imports(MODULES[module])):
        there = layer_of(imported)
        if here is None or there is None or here == there:
            continue
        assert there[0] < here[0], f"{module} (layer {here[1]}) imports {imported} (layer {there[1]})"


def test_no_module_imports_itself_in_a_circle():
    """Imports within functions count: they hide a circle and do not open it."""
    graph = {name: set(imports(path, at_run_time=True)) - {name} for name, path in MODULES.items()}
    # A package whose modules import each other through it: only what runs when the package is imported can be a circle.
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
