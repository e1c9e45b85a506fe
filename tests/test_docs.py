"""Facts that the documentation states and the code decides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tt_edge.bundle.manifest import Word

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
SOURCES = [p for d in ("tt_edge", "lowering", "plugins", "tests") for p in (ROOT / d).rglob("*.py")]
VARIABLE = re.compile(r"\bTT_EDGE_[A-Z_]+\b")


def test_every_environment_variable_is_documented_and_exists() -> None:
    in_code = {v for p in SOURCES if p != Path(__file__) for v in VARIABLE.findall(p.read_text("utf-8"))}
    documented = set(VARIABLE.findall((ROOT / "docs" / "reference/environment.md").read_text("utf-8")))
    assert documented == in_code


def test_the_glossary_has_every_evidence_word() -> None:
    glossary = (ROOT / "docs" / "reference/glossary.md").read_text("utf-8")
    assert [word for word in Word if f"| {word} |" not in glossary] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_page_is_in_the_navigation(page: Path) -> None:
    assert str(page.relative_to(ROOT / "docs")) in (ROOT / "mkdocs.yml").read_text("utf-8")
