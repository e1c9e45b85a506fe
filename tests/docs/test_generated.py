"""The tables that the documentation's site makes of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tt_edge.bundle.manifest import Word
from tt_edge.cli import COMMANDS
from tt_edge.roofline import DEVICES
from tt_edge.tensorrt_features import FEATURES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_marker_has_its_table_and_every_table_a_page(generate):
    used = {name for page in DOCS.rglob("*.md") for name in generate.MARKER.findall(page.read_text("utf-8"))}
    assert used == set(generate.GENERATED)


def test_commands(generate):
    page = generate.commands()
    assert [line.removeprefix("## tt-edge ") for line in page.splitlines() if line.startswith("## ")] == list(COMMANDS)
    for option in ("| `--isl N` |", "| `-o, --output HTML` |", "| `bundle` |", "| `--server URL` |"):
        assert option in page, option
    assert "%(" not in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(line.replace(r"\|", "").count("|") == 3 for line in rows), "two cells each"


def test_tables(generate):
    for name, keys in (("words", Word), ("features", [f.what for f in FEATURES]), ("devices", DEVICES)):
        table = generate.GENERATED[name]()
        assert [key for key in keys if key not in table] == []
        assert len(table.splitlines()) == len(keys) + 2


def test_the_hook_replaces_markers(generate):
    text = generate.on_page_markdown("before\n\n<!-- generated: words -->\n\nafter", page=None)
    assert text == f"before\n\n{generate.words()}\n\nafter"
    with pytest.raises(KeyError):
        generate.on_page_markdown("<!-- generated: nothing -->")
