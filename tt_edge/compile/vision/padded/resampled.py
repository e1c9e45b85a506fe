"""The vision part of Idefics 2, as one module: images in their own proportions, each resampled to a fixed number of features."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tt_edge.compile.export.semantics import SeenKeys
from tt_edge.compile.vision.padded.places import embedded, places_in_lines, seen_by
from tt_edge.contract import TILE_EDGES, TILE_PIXELS, TILES, VisionGeometry
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images.processed import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def resamples(model: Any) -> bool:
    """Whether ``model`` takes images of any size, of which it makes equally many features by attention of a resampler."""
    return hasattr(getattr(getattr(model, "model", None), "connector", None), "perceiver_resampler")


class ResampledTower(nn.Module):
    """Tiles on a canvas to features: the tower among the patches that are no padding, the projection, and the resampler."""

    instruction = None
    high_res_size = None

    def __init__(self, model: PreTrainedModel, tile_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.tile_size = model, tile_size
        patch_size, side = int(model.config.vision_config.patch_size), max(tile_size)
        if side % patch_size:
            raise UnsupportedModelError(
                f"{type(model).__name__} has patches of {patch_size} pixels, of which the processor's longest_edge {side} is no "
                "multiple; correct preprocessor_config.json and compile again"
            )
        self.patches = side // patch_size
        self._lines = places_in_lines(model.model.vision_model.embeddings, tile_size, self.patches)

    def forward(self, pixel_values: Tensor, tile_edges: Tensor) -> tuple[Tensor, ...]:
        """Pixels ``[tiles, 3, H, W]``, and the rows and columns of patches of each that are no padding ``[tiles, 2]``, to features
        ``[tiles * rows of a tile, hidden]``."""
        inner: Any = self.model.model
        vision = inner.vision_model
        states, there = embedded(vision.embeddings, self._lines, pixel_values, tile_edges)
        seen = seen_by(there, states.shape[1])
        states = vision.post_layernorm(vision.encoder(inputs_embeds=states, attention_mask=seen).last_hidden_state)
        features: Tensor = inner.connector(states, attention_mask=there)
        return (features.flatten(0, 1),)

    def without_padding(self, pixel_values: Tensor, tile_edges: Tensor) -> tuple[Tensor, ...]:
        """What ``forward`` gives, tile by tile without its padding, which takes much less time outside the network."""
        size = self.tile_size[0] // self.patches
        tiles = zip(pixel_values, tile_edges, tile_edges.tolist(), strict=True)
        found = [
            self(pixels[None, :, : rows * size, : columns * size], edges[None])
            for pixels, edges, (rows, columns) in tiles
        ]
        return tuple(torch.cat(tables) for tables in zip(*found, strict=True))

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Inputs to trace with, by name: ``units`` tiles."""
        edges = torch.full((units, 2), self.patches, dtype=torch.int64)
        return {TILE_PIXELS: torch.zeros(units, 3, *self.tile_size, dtype=dtype), TILE_EDGES: edges}

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, the resampler's mask is one of what is seen, not one that is added to scores."""
        resampler: Any = self.model.model.connector.perceiver_resampler
        with patch.object(sys.modules[type(resampler).__module__], "create_bidirectional_mask", _seen_patches):
            yield

    def geometry(self) -> VisionGeometry:
        """The sizes of its inputs and outputs."""
        rows = int(self.model.model.connector.perceiver_resampler.n_latents)
        kind = str(self.model.config.model_type)
        return VisionGeometry(kind, TILES, rows, tile_size=self.tile_size, padded_tiles=self.patches, whole_tiles=True)


def _seen_patches(*, inputs_embeds: Tensor, attention_mask: Tensor, **_: Any) -> SeenKeys:
    """In place of ``create_bidirectional_mask``: latents ``[tiles, n, hidden]`` see the context that is there, and each other."""
    return seen_by(attention_mask, inputs_embeds.shape[1])


def resampled_inputs(model: Any, images: Sequence[ProcessedImage]) -> dict[str, list[Tensor]]:
    """Pixels, and which of them are no padding, of each of ``images``: ``[tiles, 3, H, W]`` and ``[tiles, H, W]``."""
    size = int(model.config.vision_config.patch_size)
    found: dict[str, list[Tensor]] = {TILE_PIXELS: [], "pixel_attention_mask": []}
    for image in images:
        assert image.edges is not None
        pixels = torch.from_numpy(image.pixels)
        rows, columns = (torch.from_numpy(image.edges[:, axis, None] * size) for axis in (0, 1))
        down, right = torch.arange(pixels.shape[2]) < rows, torch.arange(pixels.shape[3]) < columns
        found[TILE_PIXELS].append(pixels)
        found["pixel_attention_mask"].append((down[:, :, None] & right[:, None, :]).long())
    return found
