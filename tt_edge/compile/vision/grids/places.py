"""Features of patches whose places in their image are given, for the patches of all images at once (Gemma 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tt_edge.compile.export.semantics import Segments


def features_of_places(model: Any, patches: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
    """What ``get_image_features`` makes of ``patches`` ``[N, patch_dim]``: ``[tokens, hidden]``.

    They stand block by block of those that become one token. ``positions`` ``[N, 2]`` are their rows and columns; patches of equal
    ``segments`` ``[N]`` are of one image.
    """
    inner, pixels, places = model.model, patches[None], positions.flip(-1)[None]
    tower = getattr(inner, "vision_tower", None)
    if tower is None:  # a projection of each patch by itself
        alone: Tensor = inner.embed_vision(pixels, places, return_dict=True).pooler_output
        return alone[0]
    hidden = tower.patch_embedder(pixels, places, torch.zeros(pixels.shape[:2], dtype=torch.bool))
    dtype, around = hidden.dtype, tower.encoder.rotary_emb(hidden, places)
    for layer in tower.encoder.layers:
        hidden = layer(hidden, position_embeddings=around, attention_mask=Segments(segments), position_ids=places)
    block = model.config.vision_config.pooling_kernel_size**2
    pooled = (
        hidden[0].reshape(-1, block, hidden.shape[-1]).float().mean(1).to(dtype).float() * tower.pooler.root_hidden_size
    )
    if tower.config.standardize:
        pooled = (pooled - tower.std_bias.float()) * tower.std_scale.float()
    features: Tensor = inner.embed_vision(inputs_embeds=pooled.to(dtype))
    return features
