"""The vision part of a vision-language model as one module: images in, one feature row per image token out.

Everything that depends on image sizes (positions, segments, windows) is an input, computed by the host
(``tt_edge.runtime.multimodal.vision_inputs``), so that one network takes images of any size, several at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tt_edge.compile.vision.families import VLMFamily
from tt_edge.compile.vision.features import features_of
from tt_edge.contract import IMAGE_TOKENS, TILES, WINDOWS, VisionGeometry

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GridTower(nn.Module):
    """The tower of a Qwen-VL model: patches of images of any size.

    Inputs are ``[tokens, patches per token, …]``; for Qwen2.5-VL they are ``[windows, patches per window, …]``, with each
    window padded with patches of segment -1, and the features are in window order. With a ragged geometry its inputs are
    tokens, too, in window order, and ``window_ids`` give the window of each patch.
    """

    def __init__(self, model: PreTrainedModel, geometry: VisionGeometry) -> None:
        super().__init__()
        self.model = model
        self._windows = geometry.window_tokens > 0

    @property
    def visual(self) -> Any:
        return self.model.get_submodule("model.visual")

    def forward(
        self,
        patches: Tensor,
        patch_positions: Tensor,
        segment_ids: Tensor,
        interpolation_indices: Tensor | None = None,
        interpolation_weights: Tensor | None = None,
        window_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """``patches`` ``[n, p, patch_dim]``; ``patch_positions`` ``[n, p, 2]`` int64, rows and columns; ``segment_ids`` and
        ``window_ids`` ``[n, p]``.

        ``interpolation_*`` ``[n, p, 4]``: indices into the position table, and their weights (Qwen3-VL). Returns the
        features ``[rows, hidden]``, then those of the deeper levels.
        """
        segments = segment_ids.flatten()
        # The model passes these on unchanged; our attention reads the segments from them.
        computed: dict[str, Any] = {
            "cu_seqlens": segments,
            "max_seqlen": 1,
            "position_ids": patch_positions.flatten(0, 1),
        }
        if self._windows:
            count = segment_ids.shape[0] * segment_ids.shape[1] // 4
            computed |= {
                "window_index": torch.arange(count),
                "cu_window_seqlens": segment_ids if window_ids is None else window_ids.flatten(),
                "max_window_seqlen": 1,
            }
        if interpolation_indices is not None:
            assert interpolation_weights is not None
            computed |= {
                "interp_indices": interpolation_indices.flatten(0, 1),
                "interp_weights": interpolation_weights.flatten(0, 1),
            }
        features: list[Tensor] = []
        merger = self.visual.merger
        handle = merger.register_forward_hook(lambda _module, _args, result: features.append(result))
        try:
            out = self.visual(patches.flatten(0, 1), grid_thw=torch.ones(1, 3, dtype=torch.int64), **computed)
        finally:
            handle.remove()
        return (features[0], *(getattr(out, "deepstack_features", None) or ()))

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, attention is called once for all segments, and windows are not reordered."""
        module = sys.modules[type(self.visual).__module__]
        with ExitStack() as stack:
            stack.enter_context(patch.object(module, "is_flash_attention_requested", lambda *_args, **_kwargs: True))
            if self._windows:
                stack.enter_context(
                    patch.object(self.visual, "permute_input_for_window_attn", lambda tensor, *_args, **_kwargs: tensor)
                )
            yield


class TileTower(nn.Module):
    """A tower that takes tiles of one size, with its projection: what ``get_image_features`` runs."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._features = features_of(model)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``pixel_values`` ``[tiles, 3, H, W]`` to features ``[tiles * rows of a tile, hidden]``."""
        return (self._features(self.model, pixel_values).flatten(0, -2),)

    @contextmanager
    def traceable(self) -> Iterator[None]:
        yield


def tower_of(
    model: PreTrainedModel, family: VLMFamily, *, ragged: bool = False
) -> tuple[GridTower | TileTower, VisionGeometry]:
    """The tower of ``model``, and the geometry that determines its input shapes."""
    if family.tower == "tiles":
        return TileTower(model), replace(_tile_geometry(model, family.tile_size), ragged=ragged)
    geometry = _grid_geometry(model, ragged)
    return GridTower(model, geometry), geometry


def _grid_geometry(model: PreTrainedModel, ragged: bool) -> VisionGeometry:
    vision: Any = model.config.vision_config
    merge = int(vision.spatial_merge_size)
    window = 0
    if getattr(vision, "fullatt_block_indexes", None) is not None:
        window = (int(vision.window_size) // merge // int(vision.patch_size)) ** 2
    channels = int(getattr(vision, "in_channels", 0) or getattr(vision, "in_chans", 3))
    patch_dim = channels * int(vision.temporal_patch_size) * int(vision.patch_size) ** 2
    table = int(getattr(vision, "num_position_embeddings", 0) or 0)
    return VisionGeometry(
        family=str(model.config.model_type),
        unit=WINDOWS if window and not ragged else IMAGE_TOKENS,
        tokens_a_unit=1 if ragged else window or 1,
        merge_size=merge,
        patch_dim=patch_dim,
        window_tokens=window,
        position_table_side=int(table**0.5),
        ragged=ragged,
    )


def _tile_geometry(model: PreTrainedModel, tile_size: tuple[int, int] | None) -> VisionGeometry:
    size: Any = tile_size or model.config.vision_config.image_size
    height, width = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        (features,) = TileTower(model)(torch.zeros(1, 3, height, width, dtype=dtype))
    return VisionGeometry(
        family=str(model.config.model_type),
        unit=TILES,
        tokens_a_unit=len(features),
        tile_size=(height, width),
    )


def example(geometry: VisionGeometry, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tower inputs to trace with, by name: ``units`` tokens, windows or tiles."""
    if geometry.tile_size is not None:
        return {"pixel_values": torch.zeros(units, 3, *geometry.tile_size, dtype=dtype)}
    patches = geometry.patches_a_unit
    inputs = {
        "patches": torch.zeros(units, patches, geometry.patch_dim, dtype=dtype),
        "patch_positions": torch.zeros(units, patches, 2, dtype=torch.int64),
        "segment_ids": torch.zeros(units, patches, dtype=torch.int32),
    }
    if geometry.position_table_side:
        inputs |= {
            "interpolation_indices": torch.zeros(units, patches, 4, dtype=torch.int64),
            "interpolation_weights": torch.zeros(units, patches, 4, dtype=torch.float32),
        }
    if geometry.ragged and geometry.window_tokens:
        inputs["window_ids"] = torch.zeros(units, patches, dtype=torch.int32)
    return inputs
