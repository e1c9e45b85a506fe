"""The Python of the pages that teach how to extend tt-edge runs as it stands, and their asserts hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "extend"


@pytest.mark.parametrize(
    "page", ["add_a_pass", "debug_a_compile", "add_a_backend", "add_a_part", "add_a_vision_family"]
)
def test_the_code_of_the_page_runs(page):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {"__name__": page}
    for block in blocks:  # one after the other, as a reader would
        exec(compile(block, f"{page}.md", "exec"), names)
