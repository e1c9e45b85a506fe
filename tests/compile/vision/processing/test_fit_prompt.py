"""The rule by which a processor writes an image is found from what it wrote, and a processor without one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tt_edge.compile.vision.processing.fit_prompt import Expanded, fit_placeholders
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText

LAYOUTS = [Layout(1, 1), Layout(2, 3, "last"), Layout(3, 1, "last"), Layout(1, 2, "last")]


def image(layout, tokens=2):
    return ProcessedImage(np.zeros((layout.tiles, 1), np.float32), None, tokens * layout.tiles, layout=layout)


def seen(write, layouts=LAYOUTS):
    return [Expanded(write(layout), image(layout)) for layout in layouts]


def named(layout):
    """As Idefics 3: rows and columns by number, then the whole image."""
    rows = ["".join(f"<f><r{r}c{c}>II" for c in range(1, layout.columns + 1)) + "\n" for r in range(1, layout.rows + 1)]
    return "<f><g>II<f>" if layout.tiles == 1 else "".join(rows) + "\n<f><g>II<f>"


def numbered(layout):
    """As Aya Vision: tiles by number."""
    tiles = [f"T{i}II" for i in range(1, layout.rows * layout.columns + 1)] if layout.tiles > 1 else []
    return f"<s>{''.join(tiles)}WII</s>"


def first(layout):
    """As Ovis 2: the whole image first, and the token before the others even where there are none."""
    rows = ["<c>".join(["II"] * layout.columns) for _ in range(layout.rows)] if layout.tiles > 1 else []
    return f"<s>II<g>{'<r>'.join(rows)}</s>"


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda layout: f"<s>{'II' * layout.tiles}</s>", Placeholders("I", start="<s>", end="</s>")),
        (
            lambda layout: f"<s>{'II|' * layout.tiles}</s>",
            Placeholders("I", start="<s>", end="|</s>", tiles=TileText("<s>", "|", "|", "|", "|</s>")),
        ),
        (
            named,
            Placeholders(
                "I",
                start="<f><g>",
                end="<f>",
                tiles=TileText("<f><r1c1>", "<f><r{row}c{column}>", "\n<f><r{row}c{column}>", "\n\n<f><g>", "<f>"),
            ),
        ),
        (
            numbered,
            Placeholders("I", start="<s>W", end="</s>", tiles=TileText("<s>T1", "T{tile}", "T{tile}", "W", "</s>")),
        ),
    ],
    ids=["joined", "ended", "named", "numbered"],
)
def test_rules(write, found):
    rule = fit_placeholders("I", "I", seen(write))
    assert rule == found
    for layout in (Layout(4, 3, "last"), Layout(1, 7, "last")):  # not among those that it is found from
        assert rule.expand("I", [image(layout)])[0] == write(layout)


def test_the_whole_image_first():
    layouts = [Layout(1, 1), Layout(2, 3, "first"), Layout(3, 1, "first")]
    rule = fit_placeholders("I", "<image>", seen(first, layouts))
    assert rule == Placeholders(
        "I", start="<s>", end="<g></s>", written="<image>", tiles=TileText("<s>", "<c>", "<r>", "<g>", "</s>")
    )
    assert rule.expand("a<image>b", [image(Layout(3, 2, "first"))])[0] == f"a{first(Layout(3, 2, 'first'))}b"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda layout: f"<s>{'I' * layout.tiles}</s>",
            r"writes \[1\] image tokens for an image of 1 tiles, .* makes 2",
        ),
        (lambda layout: f"{layout.rows * layout.columns} tiles: {'II' * layout.tiles}", "which follows no rule"),
        (lambda layout: "<s>" + "|".join(["II"] * layout.tiles) + "?" * layout.rows, "which follows no rule"),
        (lambda layout: "no image", r"writes \[\] image tokens"),
    ],
    ids=["another count", "a number of tiles", "rows", "none"],
)
def test_processors_without_a_rule_are_refused(write, words):
    with pytest.raises(UnsupportedModelError, match=words):
        fit_placeholders("I", "I", seen(write))
