"""The tower of a model whose images are grids of any size, as one network."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tt_edge.compile.vision.families import COORDINATES
from tt_edge.compile.vision.grids.calls import Answers, Grids, Seen, answering
from tt_edge.compile.vision.grids.places import features_of_places
from tt_edge.contract import MERGED_PATCHES, VisionGeometry
from tt_edge.runtime.multimodal.images.processed import Grid, ProcessedImage
from tt_edge.runtime.multimodal.mrope import CONTINUED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What the inputs of ``get_image_features`` are called that say an image's size.
_GRID, _SIZES, _MERGES = "image_grid_thw", "image_sizes", "image_merge_sizes"


def _first_of(configs: Sequence[Any], names: Sequence[str], otherwise: int) -> Any:
    """The first setting of ``configs`` by one of ``names`` that is there."""
    return next((found for each in configs for name in names if (found := getattr(each, name, 0))), otherwise)


def _parameters(model: Any) -> Any:
    return inspect.signature(model.get_image_features).parameters if hasattr(model, "get_image_features") else {}


def feature_tables(out: Any) -> list[Tensor]:
    """Of the result of ``get_image_features``: features ``[rows, hidden]`` of all images, then those of deeper levels."""
    tables = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
    return [_joined(list(each)) if isinstance(each, list | tuple) else each for each in tables]


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class PatchInputs:
    """The inputs of a model's ``get_image_features`` for patches ``[N, patch_dim]``.

    ``grids`` says whether it takes grids of patches or sizes in pixels; ``coordinates`` whether it takes the place of each patch
    instead, with the patches of each image padded to those of the largest; ``squares`` whether it takes patches as small images
    ``[N, channels, side, side]``; ``raster`` whether its patches are row by row in the whole image. Else they stand block by block
    of those that become one token. ``positions`` is the rule of ``POSITIONS`` for its tokens.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        vision: Any = model.config.vision_config
        inner: Any = getattr(model, "model", model)  # whose outer function may only pass on what it is given
        taken = {**_parameters(model), **_parameters(inner)}
        self.grids, self.merges, self.coordinates = _GRID in taken, _MERGES in taken, COORDINATES in taken
        whole = int(getattr(vision, "model_patch_size", 0))  # of a token
        self.patch_size = whole or int(vision.patch_size)
        names = ("spatial_merge_size", "merge_size", "pooling_kernel_size")
        self.merge_size = 1 if whole else int(_first_of((vision, model.config), names, 1))
        self.channels = int(_first_of((vision,), ("in_channels", "in_chans", "num_channels"), 3))
        self.depth = int(_first_of((vision,), ("temporal_patch_size", "patch_temporal"), 1)) if self.grids else 1
        self.squares = False
        self.positions = CONTINUED
        self.raster = not self.grids

    @property
    def patch_dim(self) -> int:
        return self.channels * self.depth * self.patch_size**2

    def of_tall(self, patches: Tensor) -> tuple[dict[str, Any], tuple[Any, int]]:
        """For one image that is one token wide, in which both orders are the same; and its rows and columns of patches."""
        merge = self.merge_size
        tall = patches.shape[0] // merge, merge
        if not self.grids:
            side = self.patch_size
            sizes = Grids.of([[tall[0] * side, tall[1] * side]])
            return {"pixel_values": self._squares(patches), _SIZES: sizes}, tall
        inputs = {"pixel_values": self._squares(patches) if self.squares else patches, _GRID: Grids.of([[1, *tall]])}
        if self.merges:
            inputs[_MERGES] = Grids.of([[merge]])[0]
        return inputs, tall

    def of_images(self, images: Sequence[ProcessedImage]) -> dict[str, Tensor]:
        """For ``images`` as the runtime prepares them, whose patches stand block by block."""
        grids = [image.grid or (0, 0, 0) for image in images]
        pixels = [torch.from_numpy(image.pixels) for image in images]
        if self.raster:
            pixels = [each[self._raster(grid)] for each, grid in zip(pixels, grids, strict=True)]
        if self.coordinates:
            return self._located(pixels, grids)
        if not self.grids:
            return self._padded(pixels, grids)
        patches = torch.cat(pixels)
        inputs = {"pixel_values": self._squares(patches) if self.squares else patches, _GRID: torch.tensor(grids)}
        if self.merges:
            inputs[_MERGES] = torch.full((len(images),), self.merge_size)
        return inputs

    def blocks(self, pixels: Tensor, grids: Sequence[Grid]) -> list[np.ndarray]:
        """The patches ``[N, patch_dim]`` of each image in ``pixels`` as ``of_images`` has them, block by block."""
        counts = [math.prod(grid) for grid in grids]
        if self.grids or self.coordinates:
            images = list(torch.split(pixels.reshape(-1, self.patch_dim), counts))
        else:
            side = self.patch_size
            images = [
                image[:, : rows * side, : columns * side]
                .reshape(self.channels, rows, side, columns, side)
                .permute(1, 3, 0, 2, 4)
                .reshape(-1, self.patch_dim)
                for image, (_, rows, columns) in zip(pixels, grids, strict=True)
            ]
        if self.raster:
            images = [image[self._raster(grid).argsort()] for image, grid in zip(images, grids, strict=True)]
        return [image.numpy() for image in images]

    def _located(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Patches ``[images, N, patch_dim]`` and their columns and rows ``[images, N, 2]``, which are -1 for what is padded."""
        places = [
            torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1) for _, rows, columns in grids
        ]
        padded = torch.nn.utils.rnn.pad_sequence
        return {
            "pixel_values": padded(list(pixels), batch_first=True),
            COORDINATES: padded(places, batch_first=True, padding_value=-1),
        }

    def _padded(self, pixels: Sequence[Tensor], grids: Sequence[Grid]) -> dict[str, Tensor]:
        """Whole images ``[images, channels, H, W]``, padded at the right and below, and their sizes."""
        side = self.patch_size
        sizes = torch.tensor([[rows * side, columns * side] for _, rows, columns in grids])
        out = torch.zeros(len(pixels), self.channels, *sizes.max(0).values.tolist())
        for place, (patches, (_, rows, columns)) in enumerate(zip(pixels, grids, strict=True)):
            apart = patches.reshape(rows, columns, self.channels, side, side).permute(2, 0, 3, 1, 4)
            out[place, :, : rows * side, : columns * side] = apart.reshape(self.channels, rows * side, columns * side)
        return {"pixel_values": out, _SIZES: sizes}

    def _raster(self, grid: Grid) -> Tensor:
        """Where the patches of the whole image, row by row, are among those that stand block by block."""
        frames, rows, columns = grid
        merge = self.merge_size
        places = torch.arange(math.prod(grid)).reshape(frames, rows // merge, columns // merge, merge, merge)
        return places.transpose(2, 3).flatten()

    def _squares(self, patches: Tensor) -> Tensor:
        return patches.reshape(-1, self.channels * self.depth, self.patch_size, self.patch_size)


class GridTower(nn.Module):
    """What ``get_image_features`` computes of patches of images of any size.

    The model sees one tall image, one token wide, in which patches are in the same order whether they stand row by row or block by
    block; what it reads of the grid is answered from the inputs. These are ``[tokens, patches per token, …]``; for a tower with
    windows ``[windows, patches per window, …]``, with each window padded with patches of segment -1, and the features are in
    window order. With a ragged geometry its inputs are tokens, too, in window order, and ``window_ids`` give the window of each
    patch.
    """

    def __init__(self, model: PreTrainedModel, geometry: VisionGeometry, inputs: PatchInputs, seen: Seen) -> None:
        super().__init__()
        self.model = model
        self._geometry, self._inputs, self._seen = geometry, inputs, seen

    def forward(
        self,
        patches: Tensor,
        segment_ids: Tensor,
        patch_positions: Tensor | None = None,
        interpolation_indices: Tensor | None = None,
        interpolation_weights: Tensor | None = None,
        window_ids: Tensor | None = None,
        merged_patches: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """``patches`` ``[n, p, patch_dim]``; ``patch_positions`` ``[n, p, 2]`` int64, rows and columns; ``segment_ids`` and
        ``window_ids`` ``[n, p]``.

        ``interpolation_*`` ``[n, p, entries]``: indices into a table of positions, and their weights. ``merged_patches`` ``[n, p,
        patches]``: of each row of features the patches whose mean it is. Returns the features
        ``[rows, hidden]``, then those of the deeper levels.
        """

        def flat(given: Tensor | None) -> Tensor | None:
            return None if given is None else given.flatten(0, 1)

        windows = (
            (segment_ids if window_ids is None else window_ids.flatten()) if self._geometry.window_tokens else None
        )
        answers = Answers(
            flat(patch_positions),
            segment_ids.flatten(),
            windows,
            flat(interpolation_indices),
            flat(interpolation_weights),
            flat(merged_patches),
        )
        if self._inputs.coordinates:
            assert answers.positions is not None
            return (features_of_places(self.model, patches.flatten(0, 1), answers.positions, answers.segments),)
        given, tall = self._inputs.of_tall(patches.flatten(0, 1))
        with answering(self.model, answers, tall):
            tables = feature_tables(self.model.get_image_features(**given, return_dict=True))
        return tuple(self._ends_first(table) for table in tables)

    def _ends_first(self, table: Tensor) -> Tensor:
        """The rows that begin and end an image, that which ends a line, and the features, of those of the tall image."""
        geometry, ends = self._geometry, []
        if not geometry.end_rows:
            return table
        if geometry.image_ends:
            last = table.shape[0] - 1
            ends, table = [table[:1], table[last:]], table[1:last]
        lines = table.reshape(-1, 1 + geometry.line_ends, table.shape[-1])
        ends += [lines[0, 1:]] if geometry.line_ends else []
        return torch.cat([*ends, lines[:, 0]])

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Inputs to trace with, by name: ``units`` tokens or windows."""
        geometry, patches = self._geometry, self._geometry.patches_a_unit
        inputs = {
            "patches": torch.zeros(units, patches, geometry.patch_dim, dtype=dtype),
            "segment_ids": torch.zeros(units, patches, dtype=torch.int32),
        }
        if self._seen.positions:
            inputs["patch_positions"] = torch.zeros(units, patches, 2, dtype=torch.int64)
        if geometry.position_table_side:
            entries = geometry.position_entries
            if not geometry.samples_all:
                inputs["interpolation_indices"] = torch.zeros(units, patches, entries, dtype=torch.int64)
            inputs["interpolation_weights"] = torch.zeros(units, patches, entries, dtype=torch.float32)
        if geometry.film_merge:
            inputs[MERGED_PATCHES] = torch.zeros(units, patches, geometry.film_merge**2, dtype=torch.int64)
        if geometry.ragged and geometry.window_tokens:
            inputs["window_ids"] = torch.zeros(units, patches, dtype=torch.int32)
        return inputs

    def given(self, found: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
        """Of the inputs that the host computes, those that this tower takes, as tensors."""
        example = self.example(1, dtype)
        return {name: torch.from_numpy(found[name]).to(tensor.dtype) for name, tensor in example.items()}

    @contextmanager
    def traceable(self) -> Iterator[None]:
        yield
