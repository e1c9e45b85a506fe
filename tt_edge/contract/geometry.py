"""Sizes from which the host computes the inputs of a vision tower. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tt_edge.contract.tensor import size

#: What the first dimension of a tower's inputs counts (``VisionGeometry.unit``).
IMAGE_TOKENS, WINDOWS, TILES, WHOLE_IMAGES = "image_tokens", "windows", "tiles", "images"

#: How a table of learned positions is resampled to an image's grid (``VisionGeometry.position_sampling``): PyTorch's modes,
#: with the corners of the table at the corners of the image ("aligned"), with zeros beyond the table's edge ("zeros"), or with a
#: filter as wide as a step ("antialiased").
BILINEAR, BILINEAR_ALIGNED, BICUBIC, BICUBIC_ALIGNED = "bilinear", "bilinear-aligned", "bicubic", "bicubic-aligned"
BILINEAR_ZEROS, BILINEAR_ANTIALIASED = "bilinear-zeros", "bilinear-antialiased"
#: Fields that older bundles lack.
_ADDED = (
    *("keep", "position_sampling", "tiles", "max_instruction", "learned_rows", "high_res_size", "line_ends"),
    *("image_ends", "frame_rows", "frames_end", "padded_tiles", "whole_tiles", "flattened_patches", "film_merge"),
)
_TAPS = {BILINEAR: 2, BILINEAR_ALIGNED: 2, BILINEAR_ZEROS: 2, BICUBIC: 4, BICUBIC_ALIGNED: 4}


def kept_tokens(keep: float, tokens: int) -> int:
    """How many of the ``tokens`` of a frame or a tile are kept: ``keep`` is a fraction up to 1, or above it their number."""
    return min(tokens, int(keep)) if keep > 1 else max(1, math.ceil(keep * tokens - 1e-9))


@dataclass(frozen=True)
class VisionGeometry:
    """Sizes from which the host computes a vision tower's inputs.

    ``unit`` is what the dynamic dimension counts; each unit gives ``tokens_a_unit`` feature rows (for a window, at most).
    For towers that take patches: ``merge_size`` squared patches of ``patch_dim`` numbers are a token; ``window_tokens`` is how
    many tokens attend to each other in layers with windows, 0 without; ``position_table_side`` is the side of a square table of
    learned positions, 0 without, and ``position_sampling`` how it is resampled. For towers that take tiles: ``tile_size`` is
    ``(height, width)``. ``ragged``: offsets say which tokens attend to each other (ViTAttentionPlugin), so that the tokens of
    all images follow one another without gaps. ``keep``: which part of the image tokens of a frame or a tile is returned, or
    above 1 how many (``kept_tokens``). For a tower whose units are whole images, ``tiles`` is how many tiles each has, some of
    which may be padding; a decoder sees its features by cross-attention. ``max_instruction``: token ids of a prompt's text that the
    tower reads with each tile, at most; 0 for a tower that reads pixels only. ``learned_rows``: so many rows behind those of a
    tile's own tokens, the same for every tile, stand in for special tokens around images. ``high_res_size``: each tile is taken in
    this size, too. ``line_ends``: a row of the model's own ends each line of an image's features; ``image_ends``: one begins and
    one ends each image's. Such rows are in front of all features: the two of an image, then that of a line. ``frame_rows``: of a
    tile that is a frame of a video, a prompt has only so many rows, the last of its unit; where ``frames_end``, the last of its own
    tokens' rows is behind the last frame. ``padded_tiles``: how many patches a side of a tile has, some of which may be padding
    (``TILE_EDGES``); 0 where none is. ``whole_tiles``: such a tile has all its rows, whatever of it is padding; else those of
    padding are left out, and the last two of a unit are the end of a line and what stands between an image's tiles.
    ``flattened_patches``: a tile is so many patches of ``patch_dim`` numbers, with a row and a column each (``PATCH_POSITIONS``),
    and has no ``tile_size``; 0 where a tile is pixels.
    ``film_merge``: of a video so many patches a side are a token, where ``merge_size`` is 1 (``MERGED_PATCHES``); 0 where it is as
    of images.
    """

    family: str
    unit: str
    tokens_a_unit: int
    merge_size: int = 0
    patch_dim: int = 0
    window_tokens: int = 0
    position_table_side: int = 0
    position_sampling: str = BILINEAR_ALIGNED
    tile_size: tuple[int, int] | None = None
    ragged: bool = False
    keep: float = 1.0
    tiles: int = 0
    max_instruction: int = 0
    learned_rows: int = 0
    high_res_size: tuple[int, int] | None = None
    line_ends: bool = False
    image_ends: bool = False
    frame_rows: int = 0
    frames_end: bool = False
    padded_tiles: int = 0
    whole_tiles: bool = False
    flattened_patches: int = 0
    film_merge: int = 0

    @property
    def end_rows(self) -> int:
        """How many rows of the model's own are in front of the features."""
        return 2 * self.image_ends + self.line_ends

    def tokens_of(self, rows: int, columns: int) -> int:
        """How many image tokens an image of so many rows and columns of features has."""
        return rows * (columns + self.line_ends) + 2 * self.image_ends

    def columns_of(self, tokens: int, rows: int) -> int:
        """The columns of an image of so many image tokens in so many rows; 0 where no image has."""
        columns, rest = divmod(tokens - 2 * self.image_ends, rows)
        return 0 if rest else max(0, columns - self.line_ends)

    @property
    def prunes(self) -> bool:
        """Whether image tokens are dropped."""
        return self.keep != 1

    @property
    def tokens_a_tile(self) -> int:
        """The rows of a tile's own tokens."""
        return self.tokens_a_unit - self.learned_rows - self.frame_rows

    @property
    def image_rows(self) -> int:
        """The rows of a unit that an image may have, as a frame of a video has others."""
        return self.tokens_a_unit - self.frame_rows

    @property
    def partial_tiles(self) -> bool:
        """Whether a tile may have fewer rows than its unit, as those of padding are left out."""
        return self.padded_tiles > 0 and not self.whole_tiles

    @property
    def least_image_tokens(self) -> int:
        """Of an image of one tile; where tiles may be padded, of one tile and the whole image, with the ends of lines."""
        side = math.isqrt(max(0, self.tokens_a_unit - 2))
        return 2 * side * (side + 1) + 1 if self.partial_tiles else self.tokens_a_tile

    @property
    def patches_a_unit(self) -> int:
        return self.tokens_a_unit * self.merge_size**2

    @property
    def position_entries(self) -> int:
        """How many entries of the table of positions make one patch's; all of them where the filter may be of any width."""
        taps = _TAPS.get(self.position_sampling, self.position_table_side)
        return taps * taps

    @property
    def samples_all(self) -> bool:
        """Whether every patch has a weight for every entry of the table of positions, so that it needs no indices."""
        return self.position_sampling not in _TAPS

    @property
    def window_patches(self) -> int:
        return self.window_tokens * self.merge_size**2

    def most_units(self, tokens: int) -> int:
        """A sufficient number of units for ``tokens`` image tokens; windows, and padded tiles, may be half empty."""
        if self.unit == WINDOWS or self.partial_tiles:
            return max(1, -(-2 * tokens // self.tokens_a_unit))
        return max(1, tokens // self.tokens_a_tile)

    def units(self, least_tokens: int, most_tokens: int) -> tuple[int, int, int]:
        """Minimum, typical and maximum number of units in one call, for calls with these numbers of image tokens."""
        most = self.most_units(most_tokens)
        least = min(most, max(1, least_tokens // self.tokens_a_unit))
        return least, max(least, most // 2), most

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VisionGeometry:
        """Rebuild from JSON. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for a wrong field."""
        given = {f.name: f.default for f in fields(cls) if f.name in _ADDED} | dict(data)
        values: dict[str, Any] = {f.name: given[f.name] for f in fields(cls)}
        sizes = {name: values.pop(name) for name in ("tile_size", "high_res_size")}
        for key, value in values.items():
            wanted = {"family": str, "unit": str, "position_sampling": str, "keep": float}.get(key, int)
            wanted = bool if key in ("ragged", "line_ends", "image_ends", "frames_end", "whole_tiles") else wanted
            if type(value) is not wanted:
                raise ValueError(f"{key} is {value!r}")
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{key} is {value!r}")
        if not (0 < values["keep"] <= 1 or values["keep"] in range(2, 1 << 24)):
            raise ValueError(f"keep is {values['keep']!r}")
        if values["position_sampling"] not in (*_TAPS, BILINEAR_ANTIALIASED):
            raise ValueError(f"position_sampling is {values['position_sampling']!r}")
        if values["unit"] not in (IMAGE_TOKENS, WINDOWS, TILES, WHOLE_IMAGES):
            raise ValueError(f"unit is {values['unit']!r}")
        size(values["tokens_a_unit"], "tokens_a_unit")
        for name in ("learned_rows", "frame_rows"):
            if values[name] >= values["tokens_a_unit"]:
                raise ValueError(f"{name} is {values[name]!r}")
        for name, given_size in sizes.items():
            if given_size is not None:
                height, width = given_size
                sizes[name] = size(height, name), size(width, name)
        return cls(**values, **sizes)
