"""What transformers' own Llama 3.2 Vision is given, and the keys and values of images that it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, MllamaVisionConfig

from tt_edge.compile.vision.crossed.tower import CrossedTower, cross_layers
from tt_edge.contract import ASPECT_RATIO_IDS, ASPECT_RATIO_MASK, CANVAS_PIXELS, image_cache_names
from tt_edge.runtime.multimodal.crossed.inputs import canvas_inputs
from tt_edge.runtime.multimodal.images import ProcessedImage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_crossed(model: Any) -> bool:
    """Whether the model sees images by cross-attention, as Llama 3.2 Vision does."""
    return bool(getattr(model.config, "model_type", "") == "mllama")


def rows_of_image(settings: Mapping[str, Any]) -> int:
    """How many rows of keys and values an image has, by a checkpoint's ``config.json``; 0 where tokens stand for its features."""
    if settings.get("model_type") != "mllama":
        return 0
    vision = MllamaVisionConfig(**settings.get("vision_config") or {})
    return int(vision.max_num_tiles * ((vision.image_size // vision.patch_size) ** 2 + 1))


def crossed_inputs(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], images: Sequence[ProcessedImage]
) -> dict[str, Tensor]:
    """The inputs for ``images``, which stand in order in the ``rows`` of token ids of equal length."""
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    token, geometry = model.config.image_token_index, CrossedTower(model).geometry()
    counts = [sum(each == token for each in row) for row in rows]
    most, left = max(counts), list(images)
    found: dict[str, list[np.ndarray]] = {CANVAS_PIXELS: [], ASPECT_RATIO_IDS: [], ASPECT_RATIO_MASK: []}
    tiles: list[list[int]] = []
    for count in counts:
        own, left = left[:count], left[count:]
        tiles.append([image.layout.tiles if image.layout else 1 for image in own])
        for name, array in canvas_inputs(geometry, own).items():
            padded = np.zeros((most, *array.shape[1:]), array.dtype)
            padded[: len(array)] = array
            if name == ASPECT_RATIO_MASK:
                padded[len(array) :, 0] = 1
            found[name].append(padded)
    arrays = {name: torch.from_numpy(np.stack(each)) for name, each in found.items()}
    seen = convert_sparse_cross_attention_mask_to_dense(
        [get_cross_attention_token_mask(list(row), token) for row in rows], tiles, geometry.tiles, len(rows[0])
    )
    return {
        "pixel_values": arrays[CANVAS_PIXELS],
        "aspect_ratio_ids": arrays[ASPECT_RATIO_IDS],
        "aspect_ratio_mask": arrays[ASPECT_RATIO_MASK],
        "cross_attention_mask": torch.from_numpy(seen),
    }


def crossed_features(model: PreTrainedModel, images: Sequence[ProcessedImage]) -> dict[str, np.ndarray]:
    """Keys and values of ``images`` as the model itself keeps them, fp32 ``[rows, heads * D]`` by the names of the tables."""
    ids = [model.config.image_token_index] * len(images)
    given = crossed_inputs(model, [ids], images)
    given["pixel_values"] = given["pixel_values"].to(model.dtype)
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True, **given)
    layers = [cache.layers[index] for index in cross_layers(model)]
    tables = [tensor[0].transpose(0, 1).flatten(1) for layer in layers for tensor in (layer.keys, layer.values)]
    return {name: table.float().numpy() for name, table in zip(image_cache_names(len(layers)), tables, strict=True)}
