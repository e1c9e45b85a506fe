"""The vision part of Llama 3.2 Vision: images in, keys and values of the decoder's attention to them out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from tt_edge.compile.export.latest_cache import LatestLayer
from tt_edge.compile.export.semantics import SeenKeys
from tt_edge.contract import (
    ASPECT_RATIO_IDS,
    ASPECT_RATIO_MASK,
    CANVAS_PIXELS,
    WHOLE_IMAGES,
    VisionGeometry,
    image_cache_names,
)
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.crossed.aspect_ratios import arrangements

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def cross_layers(model: Any) -> list[int]:
    """The numbers of the decoder layers that attend to images, in order."""
    return sorted(model.config.get_text_config().cross_attention_layers)


class CrossedTower(nn.Module):
    """The tower, its projection, and the decoder's keys and values of what it makes: once per image, not in every step."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.layers = cross_layers(model)
        #: Names of the outputs.
        self.tables = image_cache_names(len(self.layers))
        self._check()

    def forward(self, canvas_pixels: Tensor, aspect_ratio_ids: Tensor, aspect_ratio_mask: Tensor) -> tuple[Tensor, ...]:
        """``[images, tiles, 3, H, W]``, ``[images]`` and ``[images, tiles]`` to K and V, layer by layer, ``[rows, heads * D]``."""
        inner: Any = self.model.model
        seen = inner.vision_model(
            pixel_values=canvas_pixels[:, None],
            aspect_ratio_ids=aspect_ratio_ids[:, None],
            aspect_ratio_mask=aspect_ratio_mask[:, None],
        ).last_hidden_state
        states = inner.multi_modal_projector(seen).flatten(1, -2)  # [images, rows of an image, hidden]
        query = torch.zeros_like(states[:, :1])
        kept = Cache(layer_class_to_replicate=LatestLayer)
        found: list[Tensor] = []
        for index in self.layers:
            attention = inner.language_model.layers[index].cross_attn
            attention(query, cross_attention_states=states, past_key_values=kept)
            layer = kept.layers[index]
            found += [t.transpose(1, 2).flatten(2).flatten(0, 1) for t in (layer.keys, layer.values)]
        return tuple(found)

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Inputs to trace with, by name: ``units`` images."""
        vision: Any = self.model.config.vision_config
        shape = (units, vision.max_num_tiles, vision.num_channels, vision.image_size, vision.image_size)
        return {
            CANVAS_PIXELS: torch.zeros(shape, dtype=dtype),
            ASPECT_RATIO_IDS: torch.ones(units, dtype=torch.int64),
            ASPECT_RATIO_MASK: torch.ones(units, vision.max_num_tiles, dtype=torch.int64),
        }

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, the tower's mask is one of what is seen, not one that is added to scores."""
        from transformers.models.mllama import modeling_mllama

        with patch.object(modeling_mllama, "_prepare_aspect_ratio_attention_mask", _seen_patches):
            yield

    def geometry(self) -> VisionGeometry:
        """The sizes of its inputs and outputs."""
        vision: Any = self.model.config.vision_config
        tiles, side = int(vision.max_num_tiles), int(vision.image_size)
        rows = tiles * int(self.model.model.vision_model.num_patches)
        return VisionGeometry(self.model.config.model_type, WHOLE_IMAGES, rows, tile_size=(side, side), tiles=tiles)

    def _check(self) -> None:
        """Raise ``UnsupportedModelError`` for settings with which transformers' own code has another meaning."""
        name, vision = type(self.model).__name__, self.model.config.vision_config
        tiles = vision.max_num_tiles
        if [tuple(pair) for pair in vision.supported_aspect_ratios] != arrangements(tiles):
            raise UnsupportedModelError(
                f"{name} has supported_aspect_ratios {vision.supported_aspect_ratios!s:.80}, and its image processor numbers all "
                f"of {tiles} tiles; no backend has others"
            )
        if self.model.model.vision_model.num_patches % 8 == 0:
            raise UnsupportedModelError(
                f"{name} has tiles of {self.model.model.vision_model.num_patches} places, a multiple of 8, of which transformers "
                "masks all; no backend has this"
            )


def _seen_patches(aspect_ratio_mask: Tensor, num_patches: int, target_length: int, dtype: torch.dtype) -> SeenKeys:
    """In place of ``_prepare_aspect_ratio_attention_mask``: only padding does not see padding, of tiles and of patches."""
    is_patch = torch.arange(target_length) < num_patches
    there = torch.logical_and(aspect_ratio_mask[:, :, None] > 0, is_patch).flatten(1)
    return SeenKeys(torch.logical_or(there[:, :, None], there[:, None, :])[:, None])
