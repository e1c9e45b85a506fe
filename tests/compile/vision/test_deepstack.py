"""Features of deeper levels are added where the model adds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.any_vlm import tiny_model, tiny_processor, tokens_of
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.vision.decoder import ImageDecoder
from tt_edge.compile.vision.deepstack import deepstack_levels
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.tower import tower_of
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.tiled.anyres import AnyResProcessor


@pytest.fixture(scope="module")
def granite():
    return tiny_model("granite4_vision")


def test_layers_that_the_configuration_names(granite):
    """Granite 4 Vision: six tables, added before six decoder layers in another order; the embedding of an image token is zero."""
    processor = tiny_processor("granite4_vision", tokens_of(granite))
    inputs = processor(text=["a<image>b"], images=[Image.fromarray(photo(60, 80))], return_tensors="pt")
    tower, geometry = tower_of(granite, family_of(granite))
    with torch.no_grad():
        wanted = granite(**inputs).logits
        tables = tower(inputs["pixel_values"][0])
        ids = inputs["input_ids"]
        there = (ids[0] == granite.config.image_token_id).numpy()
        rows = _rows(inputs["image_sizes"][0].tolist(), geometry.tokens_a_unit)
        indices = np.full(len(there), -1)
        indices[there] = rows
        module = ImageDecoder(granite, family_of(granite))
        positions = torch.arange(ids.shape[1])[None]
        got = module(ids, positions, torch.from_numpy(indices)[None], *tables)
    assert (len(tables), deepstack_levels(granite)) == (7, 6)
    assert not tables[0].any()
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    assert not any(layer._forward_pre_hooks for layer in granite.model.language_model.layers)


def _rows(size, a_unit):
    """The feature rows of an image's tokens, of which ``a_unit`` are a tile's, as the runtime has them."""
    resolutions = ((56, 112), (112, 56), (112, 112))
    anyres = AnyResProcessor(Placeholders("<image>"), int((a_unit - 1) ** 0.5), (56, 56), resolutions)
    return anyres.process(photo(*size)).rows


def test_a_layer_that_is_named_twice_is_refused(granite, monkeypatch):
    """The model keeps one of its tables."""
    monkeypatch.setattr(granite.config, "spatial_target_layers", [1, 3, 4, 2])
    with pytest.raises(
        UnsupportedModelError, match=r"decoder layers \[2, 0, 1, 3, 4, 2\], of which one is named twice"
    ):
        deepstack_levels(granite)
