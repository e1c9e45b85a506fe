"""The vision part of Kosmos-2.5, as one module: patches of an image with their rows and columns, resampled to a fixed number of
features."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tt_edge.compile.export.semantics import ATTENTION_NAME
from tt_edge.compile.vision.padded.places import seen_by
from tt_edge.contract import PATCH_POSITIONS, PATCHES, TILES, VisionGeometry
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.vision_inputs import flattened_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: What the model calls patches ``[images, patches, 2 + numbers of a patch]``, each behind its row and its column, counted from 1.
FLATTENED_PATCHES = "flattened_patches"


def flattens(model: Any) -> bool:
    """Whether ``model`` takes the patches of an image with their rows and columns, as Pix2Struct does, and resamples them."""
    embeddings = getattr(getattr(model, "vision_model", None), "embeddings", None)
    return hasattr(embeddings, "row_embedder") and hasattr(model, "image_to_text_projection")


class FlattenedTower(nn.Module):
    """Patches to features. ``tile_size`` is how many patches an image has at most, and of how many numbers each is."""

    instruction = None
    high_res_size = None

    def __init__(self, model: PreTrainedModel, tile_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.tile_size = model, tile_size
        embeddings: Any = model.vision_model.embeddings
        if tile_size[1] != (numbers := embeddings.patch_projection.in_features):
            raise UnsupportedModelError(
                f"{type(model).__name__} takes patches of {numbers} numbers, and its processor makes {tile_size[1]}; correct "
                "preprocessor_config.json and compile again"
            )

    def forward(self, patches: Tensor, patch_positions: Tensor) -> tuple[Tensor, ...]:
        """Patches ``[images, n, P]``, and the row and the column of each from 1 on ``[images, n, 2]``, which are 0 of patches that
        an image lacks, to features ``[images * rows of an image, hidden]``."""
        vision: Any = self.model.vision_model
        embeddings, there = vision.embeddings, patch_positions[..., 0] > 0
        states = embeddings.patch_projection(patches)
        states = states + embeddings.row_embedder(patch_positions[..., 0])
        states = states + embeddings.column_embedder(patch_positions[..., 1])
        seen = seen_by(there, patches.shape[1])
        for layer in vision.encoder.layer:
            states = layer(states, seen)
        found = functional.normalize(vision.layernorm(states), dim=-1)
        features: Tensor = self.model.image_to_text_projection(found)[0]  # type: ignore[operator]
        return (features.flatten(0, 1),)

    def example(self, units: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Inputs to trace with, by name: ``units`` images."""
        positions = torch.ones(units, self.tile_size[0], 2, dtype=torch.int64)
        return {PATCHES: torch.zeros(units, *self.tile_size, dtype=dtype), PATCH_POSITIONS: positions}

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, the tower's attention is an operator: it looks its implementation up where there is none."""

        def attention(*args: Any, **kwargs: Any) -> Any:
            return ALL_ATTENTION_FUNCTIONS[ATTENTION_NAME](*args, **kwargs)

        with patch.object(sys.modules[type(self.model).__module__], "eager_attention_forward", attention):
            yield

    def geometry(self) -> VisionGeometry:
        """The sizes of its inputs and outputs."""
        rows = int(self.model.image_to_text_projection.latent_query.shape[0])  # type: ignore[union-attr, index]
        count, numbers = self.tile_size
        kind = str(self.model.config.model_type)
        return VisionGeometry(kind, TILES, rows, patch_dim=numbers, flattened_patches=count)


def flattened_model_inputs(images: Sequence[ProcessedImage]) -> dict[str, Tensor]:
    """The model's input for ``images``, as its processor makes it."""
    made = flattened_inputs(images)
    joined = [torch.from_numpy(made[name]).float() for name in (PATCH_POSITIONS, PATCHES)]
    return {FLATTENED_PATCHES: torch.cat(joined, dim=-1)}


def flattened_features(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The features of each image as the model makes them, ``[images, rows, hidden]``."""
    states = model.vision_model(**inputs).last_hidden_state
    features: Tensor = model.image_to_text_projection(functional.normalize(states, dim=-1))[0]
    return features
