"""From prompts that a processor expanded to the rule by which it writes an image's tokens. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images import Layout, ProcessedImage
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText

#: Of the tile that follows a text between two tiles: its row, its column, its number.
Numbers = dict[str, int]


@dataclass(frozen=True)
class Expanded:
    """What a processor wrote in the place of ``image``."""

    text: str
    image: ProcessedImage

    @property
    def layout(self) -> Layout:
        """That of its tiles; one, where the image has no tiles of its own."""
        return self.image.layout or Layout(1, 1)

    def between(self, token: str) -> list[str]:
        """The texts before, between and behind the tokens of each tile. Raises ``UnsupportedModelError`` for other tokens."""
        parts = re.split(f"((?:{re.escape(token)})+)", self.text)
        runs = [len(run) // len(token) for run in parts[1::2]]
        tiles = self.layout.tiles
        each = self.image.tokens // tiles
        if sum(runs) != self.image.tokens or any(run % each for run in runs):
            raise UnsupportedModelError(
                f"its processor writes {runs} image tokens for an image of {tiles} tiles, and the vision network makes {each} of "
                "each"
            )
        found = [parts[0]]
        for run, text in zip(runs, parts[2::2], strict=True):
            found += [*[""] * (run // each - 1), text]
        return found


def fit_placeholders(token: str, written: str, seen: Sequence[Expanded]) -> Placeholders:
    """The placeholders that write every one of ``seen``; ``token`` stands for a row of features, ``written`` for an image.

    Raises ``UnsupportedModelError`` where no rule that tt-edge has writes them all.
    """
    single: set[tuple[str, str]] = set()
    texts: dict[str, list[tuple[str, Numbers]]] = {name: [] for name in ("start", "column", "row", "whole", "end")}
    for each in seen:
        between = each.between(token)
        if each.layout.tiles == 1:
            single.add((between[0], between[-1]))
        else:
            for text, (name, numbers) in zip(between, _places(each.layout), strict=True):
                texts[name].append((text, numbers))
    if len(single) > 1:
        raise UnsupportedModelError(
            f"its processor writes an image of one tile in several ways ({sorted(single)!r:.120})"
        )
    tiles = TileText(**{name: _template(given) for name, given in texts.items()}) if texts["start"] else None
    start, end = next(iter(single), ("", "")) if tiles is None or single else (tiles.start, tiles.end)
    if tiles == TileText(start, end=end):  # all tokens in a row, as those of one tile
        tiles = None
    adds = bool(start or end) and any(each.image.grid is not None for each in seen)  # which prompts may have already
    in_prompt = None if written == token and not adds else written
    found = Placeholders(token, start=start, end=end, written=in_prompt, tiles=tiles)
    for each in seen:
        if found.expand(found.in_prompt, [each.image])[0] != each.text:
            raise UnsupportedModelError(
                f"its processor writes {each.text.replace(token, '.')!r:.160}, which follows no rule"
            )
    return found


def _places(layout: Layout) -> Iterator[tuple[str, Numbers]]:
    """The name of each text around and between the tiles of ``layout``, and the numbers of the tile that follows."""
    yield "start", {}
    if layout.whole == "first":
        yield "whole", {}
    for tile in range(1, layout.rows * layout.columns):
        row, column = divmod(tile, layout.columns)
        yield "column" if column else "row", {"row": row + 1, "column": column + 1, "tile": tile + 1}
    if layout.whole == "last":
        yield "whole", {}
    yield "end", {}


def _template(given: Sequence[tuple[str, Numbers]]) -> str:
    """The text of a place, with the names of numbers in the place of numbers that are those of the tile."""
    if not given:
        return ""
    split = [re.split(r"(\d+)", text) for text, _ in given]
    if len({tuple(parts[::2]) for parts in split}) > 1:
        return given[0][0]  # no rule, which the proof says
    found = list(split[0])
    for at in range(1, len(found), 2):
        for name in ("row", "column", "tile"):
            if all(numbers.get(name, -1) == int(parts[at]) for parts, (_, numbers) in zip(split, given, strict=True)):
                found[at] = f"{{{name}}}"
                break
    return "".join(found)
