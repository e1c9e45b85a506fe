"""Features of tiles, for all tiles of a call at once: ``get_image_features``, and what differs from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tt_edge.compile.vision.families import PLACES, holder_of_features, language_part, placed_features

#: ``(model, pixel_values [tiles, 3, H, W])`` to features ``[tiles, rows, hidden]``; ``image_features`` takes other inputs, too.
Features = Callable[..., Tensor]


def image_features(model: Any, pixel_values: Tensor, **more: Tensor) -> Tensor:
    """What the model's own ``get_image_features`` makes of each tile."""
    features: Any = holder_of_features(model).get_image_features(pixel_values=pixel_values, **more)
    features = getattr(features, "pooler_output", features)
    if isinstance(features, list | tuple):  # one for each image
        features = torch.cat([each.reshape(-1, each.shape[-1]) for each in features])
    if features.ndim == 2:
        features = features.reshape(pixel_values.shape[0], -1, features.shape[-1])
    found: Tensor = features
    return found


class _Nothing:
    """The outputs of a language part that did not run."""

    def __getattr__(self, _name: str) -> None:
        return None


def handed_features(model: Any, pixel_values: Tensor) -> Tensor:
    """What a model without ``get_image_features`` hands its decoder, which places features itself (Kosmos-2)."""
    decoder = language_part(model)
    name, handed = placed_features(decoder), []
    assert name is not None
    owner = next(part for part in model.children() if any(each is decoder for each in part.modules()))

    def called(*_: Any, **given: Any) -> _Nothing:
        handed.append(given[name])
        return _Nothing()

    ids = torch.zeros(pixel_values.shape[0], 1, dtype=torch.int64)
    with patch.object(owner, "forward", called):
        model(pixel_values=pixel_values, input_ids=ids, **{f"{name}{PLACES}": ids}, use_cache=False)
    features: Tensor = handed[0]
    return features


def selected_layers(model: Any, pixel_values: Tensor) -> Tensor:
    """LLaVA's: the hidden states of some layers of the tower, projected."""
    config, inner = model.config, model.model
    layers, drop = (
        config.vision_feature_layer,
        getattr(config, "vision_feature_select_strategy", "default") == "default",
    )
    hidden = inner.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    chosen = [hidden[index] for index in ([layers] if isinstance(layers, int) else layers)]
    selected = torch.cat([states[:, 1:] if drop else states for states in chosen], dim=-1)
    features: Tensor = inner.multi_modal_projector(selected)
    return features


def with_newline(model: Any, pixel_values: Tensor) -> Tensor:
    """LLaVA-NeXT's: as ``selected_layers``, and behind a tile's rows the one that ends each line of tokens."""
    features = selected_layers(model, pixel_values)
    newline = model.model.image_newline.to(features.dtype).expand(features.shape[0], 1, features.shape[2])
    return torch.cat([features, newline], dim=1)


class Connected:
    """Idefics 3's: the tower and its connector, for tiles without padding. Their positions are always the same."""

    def __init__(self, model: Any) -> None:
        vision, seen = model.model.vision_model, []
        vision_config, embeddings = model.config.vision_config, vision.embeddings
        size = vision_config.image_size
        hook = embeddings.position_embedding.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        side = size // vision_config.patch_size
        try:
            with torch.no_grad():
                weight = embeddings.patch_embedding.weight
                embeddings(weight.new_zeros(1, 3, size, size), torch.ones(1, side, side, dtype=torch.bool))
        finally:
            hook.remove()
        self._positions: Tensor = seen[0]

    def __call__(self, model: Any, pixel_values: Tensor) -> Tensor:
        inner = model.model
        vision, embeddings = inner.vision_model, inner.vision_model.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        hidden = vision.encoder(inputs_embeds=patches + embeddings.position_embedding(self._positions))
        features: Tensor = inner.connector(vision.post_layernorm(hidden.last_hidden_state))
        return features


def features_of_images(model: Any, pixel_values: Tensor) -> Tensor:
    """What ``get_image_features`` makes of images of one tile each, where it takes ``[images, tiles, 3, H, W]``."""
    features: Tensor = image_features(model, pixel_values[:, None])
    return features


def projected(model: Any, pixel_values: Tensor) -> Tensor:
    """Llama 4's: the projector runs behind ``get_image_features``."""
    features: Tensor = model.multi_modal_projector(model.vision_model(pixel_values).last_hidden_state)
    return features


def features_of(model: Any) -> Features:
    """How ``model`` makes features of tiles; code only where ``get_image_features`` takes images apart, or other inputs, too."""
    if not hasattr(holder_of_features(model), "get_image_features"):
        return handed_features
    inner = getattr(model, "model", model)
    holder = inner if hasattr(inner, "get_image_features") else model
    takes = inspect.signature(holder.get_image_features).parameters
    if "pixel_attention_mask" in takes and hasattr(inner, "connector"):
        return Connected(model)
    if "image_sizes" in takes:
        return with_newline if getattr(inner, "image_newline", None) is not None else selected_layers
    if model.config.model_type == "llama4":
        return projected
    if model.config.model_type == "perception_lm":
        return features_of_images
    return image_features
