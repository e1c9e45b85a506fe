"""The vision part of a vision-language model as one module: images in, one feature row per image token out.

Towers for images of any size are in ``tt_edge.compile.vision.grids``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from tt_edge.compile.export.by_shapes import by_shapes
from tt_edge.compile.vision.crossed.tower import CrossedTower
from tt_edge.compile.vision.families import Instruction, VLMFamily
from tt_edge.compile.vision.features import features_of, frame_rows, learned_tokens
from tt_edge.compile.vision.grids.found import grid_tower_of
from tt_edge.compile.vision.grids.tower import GridTower
from tt_edge.compile.vision.padded.flattened import FlattenedTower, flattens
from tt_edge.compile.vision.padded.phi4 import PaddedTower, pads_tiles
from tt_edge.compile.vision.padded.resampled import ResampledTower, resamples
from tt_edge.contract import HIGH_RES_PIXELS, INSTRUCTION_IDS, TILE_PIXELS, TILES, VisionGeometry
from tt_edge.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


#: Token ids of the traced example's instruction: a number that no model has as a size.
_INSTRUCTION = 13


class TileTower(nn.Module):
    """A tower that takes tiles of one size, or of two, with its projection: what ``get_image_features`` runs.

    ``instruction``: what it reads with each tile, if it does.
    """

    def __init__(
        self, model: PreTrainedModel, tile_size: tuple[int, int], high_res_size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.model, self.tile_size, self.high_res_size = model, tile_size, high_res_size
        self._features, self.instruction = features_of(model), Instruction.of(model)

    def forward(
        self, pixel_values: Tensor, high_res_pixel_values: Tensor | None = None, instruction_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Pixels ``[tiles, 3, H, W]`` and ``instruction_ids`` ``[tiles, I]`` to features ``[tiles * rows of a tile, hidden]``, then
        those of deeper levels."""
        more = {} if high_res_pixel_values is None else {HIGH_RES_PIXELS: high_res_pixel_values}
        if self.instruction is not None and instruction_ids is not None:
            more[self.instruction.name] = instruction_ids
        found = self._features(self.model, pixel_values, **more)
        return tuple(table.flatten(0, -2) for table in ([found] if isinstance(found, Tensor) else found))

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Inputs to trace with, by name: ``units`` tiles."""
        sizes = {TILE_PIXELS: self.tile_size, HIGH_RES_PIXELS: self.high_res_size}
        found = {name: torch.zeros(units, 3, *size, dtype=dtype) for name, size in sizes.items() if size is not None}
        ids = torch.zeros(units, _INSTRUCTION, dtype=torch.int64)
        return found if self.instruction is None else found | {INSTRUCTION_IDS: ids}

    @contextmanager
    def traceable(self) -> Iterator[None]:
        yield


#: Any tower; each has ``example`` and ``traceable``.
Tower: TypeAlias = GridTower | TileTower | PaddedTower | ResampledTower | FlattenedTower | CrossedTower


def tower_of(model: PreTrainedModel, family: VLMFamily, *, ragged: bool = False) -> tuple[Tower, VisionGeometry]:
    """The tower of ``model``, and the geometry that determines its input shapes."""
    if family.tower == "grid":
        return grid_tower_of(model, ragged=ragged, film_merge=family.film_merge)
    if family.tower == "images":
        crossed = CrossedTower(model)
        return crossed, crossed.geometry()
    if pads_tiles(model) or resamples(model) or flattens(model):
        if ragged:
            raise UnsupportedModelError(
                f"{type(model).__name__}'s tiles have padding, which ViTAttentionPlugin does not leave out; omit "
                "--vision-attention plugin"
            )
        kind = FlattenedTower if flattens(model) else ResampledTower if resamples(model) else PaddedTower
        padded = kind(model, family.tile_size or _tile_size(model))
        return padded, padded.geometry()
    tower = TileTower(model, family.tile_size or _tile_size(model), family.high_res_size)
    return tower, replace(_tile_geometry(model, tower), ragged=ragged)


def _tile_size(model: PreTrainedModel) -> tuple[int, int]:
    vision: Any = model.config.vision_config
    size = vision.image_size
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _tile_geometry(model: PreTrainedModel, tower: TileTower) -> VisionGeometry:
    rows_of_frame, ends = frame_rows(model)
    return VisionGeometry(
        family=str(model.config.model_type),
        unit=TILES,
        tokens_a_unit=_tokens_a_tile(model, tower),
        tile_size=tower.tile_size,
        max_instruction=0 if tower.instruction is None else tower.instruction.most,
        learned_rows=len(learned_tokens(model)),
        high_res_size=tower.high_res_size,
        frame_rows=rows_of_frame,
        frames_end=ends,
    )


def _tokens_a_tile(model: PreTrainedModel, tower: TileTower) -> int:
    """Rows of features of one tile."""
    dtype = next(model.parameters()).dtype
    return by_shapes(tower, lambda tower: len(tower(**tower.example(1, dtype))[0]))
