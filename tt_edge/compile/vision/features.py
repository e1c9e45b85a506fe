"""Features of tiles, for all tiles of a call at once: ``get_image_features``, and what differs from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tt_edge.compile.vision.families import PLACES, holder_of_features, language_part, placed_features
from tt_edge.errors import InvalidInputError

#: ``(model, pixel_values [tiles, 3, H, W], …)`` to features ``[tiles, rows, hidden]``, or to these and those of deeper levels.
Features = Callable[..., Tensor | Sequence[Tensor]]


def all_tables(out: Any) -> list[Tensor]:
    """Of the result of ``get_image_features``: features ``[rows, hidden]`` of all images, then those of deeper levels.

    Where all features are for deeper levels, and named after their decoder layer, the first ones are zero (Granite 4 Vision).
    """
    levels = list(getattr(out, "deepstack_features", None) or ())
    if levels and isinstance(levels[0], tuple) and isinstance(levels[0][0], int):
        levels = [features for _, features in levels]
    joined = [torch.cat([*map(_rows, each)]) if isinstance(each, list | tuple) else _rows(each) for each in levels]
    first = out.pooler_output
    if first is None:
        return [torch.zeros_like(joined[0]), *joined]
    return [torch.cat([*map(_rows, first)]) if isinstance(first, list | tuple) else _rows(first), *joined]


def _rows(features: Tensor) -> Tensor:
    return features.flatten(0, -2)


def learned_tokens(model: Any) -> tuple[int, ...]:
    """The special tokens around images that have learned rows of the tower in place of their embeddings (Ovis 2)."""
    return tuple(getattr(model.config, "visual_indicator_token_ids", None) or ())


def image_features(model: Any, pixel_values: Tensor, **more: Tensor) -> Tensor:
    """What the model's own ``get_image_features`` makes of each tile, and behind it the rows of ``learned_tokens``."""
    found: Any = holder_of_features(model).get_image_features(pixel_values=pixel_values, **more)
    features = getattr(found, "pooler_output", found)
    if isinstance(features, list | tuple):  # one for each image
        features = torch.cat([each.reshape(-1, each.shape[-1]) for each in features])
    if features.ndim == 2:
        features = features.reshape(pixel_values.shape[0], -1, features.shape[-1])
    if learned_tokens(model):
        rows = found.visual_indicator_features
        features = torch.cat([features, rows.to(features.dtype).expand(features.shape[0], *rows.shape)], dim=1)
    made: Tensor = features
    return made


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
    features: Tensor = model.model.multi_modal_projector(_selected(model, pixel_values))
    return features


def _selected(model: Any, pixel_values: Tensor) -> Tensor:
    config = model.config
    states = _chosen(model.model.vision_tower, config.vision_feature_layer, pixel_values)
    drop = getattr(config, "vision_feature_select_strategy", "default") == "default"
    return states[:, 1:] if drop else states


def _chosen(tower: Any, layers: int | Sequence[int], pixel_values: Tensor) -> Tensor:
    """The hidden states of some layers, side by side."""
    hidden = tower(pixel_values, output_hidden_states=True).hidden_states
    try:
        return torch.cat([hidden[index] for index in ([layers] if isinstance(layers, int) else layers)], dim=-1)
    except IndexError:
        raise InvalidInputError(
            f"vision_feature_layer of config.json is {layers}, and the vision tower has {len(hidden)} hidden states; correct it, "
            "or download the checkpoint again"
        ) from None


def with_newline(model: Any, pixel_values: Tensor) -> Tensor:
    """LLaVA-NeXT's: as ``selected_layers``, and behind a tile's rows the one that ends each line of tokens.

    Of models that take videos, behind these are the rows of the tile as a frame (``FramePooling``).
    """
    selected = _selected(model, pixel_values)
    features = model.model.multi_modal_projector(selected)
    pooling = frame_pooling(model)
    ended = _ended(model, features)
    if pooling is None:
        return ended
    frames = model.model.multi_modal_projector(pooling.pool(selected)) if pooling.first else pooling.pool(features)
    return torch.cat([ended, frames], dim=1)


@dataclass(frozen=True)
class FramePooling:
    """``pool`` makes fewer rows of a tile that is a frame of a video, ``first`` before they are projected.

    With ``ends``, the row that ends each line of an image's tokens ends the video.
    """

    pool: Callable[[Tensor], Tensor]
    first: bool
    ends: bool

    def rows(self, model: Any) -> int:
        """How many rows a frame has."""
        vision = model.config.vision_config
        side, weight = vision.image_size // vision.patch_size, next(model.parameters())
        with torch.no_grad():
            return int(self.pool(weight.new_zeros(1, side * side, vision.hidden_size)).shape[1])


def frame_rows(model: Any) -> tuple[int, bool]:
    """How many rows of features a tile has that are those of the tile as a frame, behind its own; and whether a line's end ends
    a video. None where a frame is as any tile.
    """
    if _video_tower(model) is not None:
        vision = model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2 + 1, False
    pooling = frame_pooling(model)
    return (0, False) if pooling is None else (pooling.rows(model), pooling.ends)


def _video_tower(model: Any) -> Any:
    """The tower of frames, where it is another than that of images (Video-LLaVA)."""
    return getattr(getattr(model, "model", model), "video_tower", None)


def of_both_towers(model: Any, pixel_values: Tensor) -> Tensor:
    """Video-LLaVA's: the rows of a tile as an image, and as a frame, whose first stands for the whole frame."""
    inner = model.model
    frames = _chosen(inner.video_tower, model.config.vision_feature_layer, pixel_values)
    return torch.cat([image_features(model, pixel_values), inner.multi_modal_projector(frames)], dim=1)


def frame_pooling(model: Any) -> FramePooling | None:
    """That of LLaVA-OneVision and LLaVA-NeXT-Video; ``None`` where a frame is as any tile."""
    inner = getattr(model, "model", model)
    if hasattr(inner, "apply_pooling"):
        return FramePooling(inner.apply_pooling, first=False, ends=True)
    if hasattr(inner, "vision_resampler"):
        return FramePooling(inner.vision_resampler, first=True, ends=False)
    return None


def _ended(model: Any, features: Tensor) -> Tensor:
    newline = model.model.image_newline.to(features.dtype).expand(features.shape[0], 1, features.shape[2])
    return torch.cat([features, newline], dim=1)


def of_levels(model: Any, pixel_values: Tensor) -> list[Tensor]:
    """Granite 4 Vision's: several layers of the tower, each with a projector and LLaVA-NeXT's line ends, all for deeper levels.

    The embedding of an image token is zero.
    """
    config, inner = model.config, model.model
    drop = config.vision_feature_select_strategy == "default"
    hidden = inner.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    layers = [*(layer for layer, _ in config.deepstack_layer_map)]
    layers += [config.spatial_vision_layer] * len(config.spatial_target_layers)
    projectors = [*inner.layerwise_projectors, *inner.spatial_projectors][: len(layers)]
    selected = [hidden[layer][:, 1:] if drop else hidden[layer] for layer in layers]
    levels = [_ended(model, project(states)) for project, states in zip(projectors, selected, strict=True)]
    return [torch.zeros_like(levels[0]), *levels]


def of_vision_model(model: Any, pixel_values: Tensor) -> list[Tensor]:
    """What the vision model makes of each tile; ``get_image_features`` only leaves out tiles that are padding."""
    tables = all_tables(model.model.vision_model(pixel_values=pixel_values, return_dict=True))
    return [table.reshape(pixel_values.shape[0], -1, table.shape[-1]) for table in tables]


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


def masks_tiles(model: Any) -> bool:
    """Whether ``get_image_features`` takes all tiles of a prompt, and a mask that says which of them are padding."""
    features = getattr(holder_of_features(model), "get_image_features", None)
    mask = None if features is None else inspect.signature(features).parameters.get("pixel_attention_mask")
    return mask is not None and mask.default is mask.empty


def features_of(model: Any) -> Features:
    """How ``model`` makes features of tiles; code only where ``get_image_features`` takes images apart, or other inputs, too."""
    if not hasattr(holder_of_features(model), "get_image_features"):
        return handed_features
    inner = getattr(model, "model", model)
    takes = inspect.signature(holder_of_features(model).get_image_features).parameters
    if _video_tower(model) is not None:
        return of_both_towers
    if masks_tiles(model):
        return of_vision_model
    if "pixel_attention_mask" in takes and hasattr(inner, "connector"):
        return Connected(model)
    if "image_sizes" in takes:
        if hasattr(inner, "layerwise_projectors"):
            return of_levels
        return with_newline if getattr(inner, "image_newline", None) is not None else selected_layers
    if model.config.model_type == "llama4":
        return projected
    if model.config.model_type == "perception_lm":
        return features_of_images
    return image_features
