"""What towers for grids read of an image's size is found in the model; what is not the host's is refused by its name."""

from __future__ import annotations

from functools import cache, wraps
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.models.any_vlm import tiny_model
from tests.models.tiny_vlms import tiny_vlm
from tt_edge.compile.files import HostFiles
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.grids import found
from tt_edge.compile.vision.grids.found import grid_tower_of, patch_inputs_of
from tt_edge.compile.vision.processing.images import prepare_images
from tt_edge.contract import IMAGE_TOKENS, WINDOWS
from tt_edge.contract.geometry import BICUBIC, BILINEAR, BILINEAR_ALIGNED, BILINEAR_ANTIALIASED, BILINEAR_ZEROS
from tt_edge.errors import UnsupportedModelError

#: By family: the side of its table of positions and how that is resampled, tokens of a window, axes of positions.
FOUND = {
    "cosmos3_edge": (16, BILINEAR_ANTIALIASED, 0, 3),
    "cosmos3_omni": (8, BILINEAR_ALIGNED, 0, 3),
    "exaone4_5": (0, BILINEAR_ALIGNED, 16, 1),
    "glm4v": (4, BICUBIC, 0, 3),
    "glm46v": (4, BICUBIC, 0, 3),
    "glm_ocr": (0, BILINEAR_ALIGNED, 0, 3),
    "gemma4": (0, BILINEAR_ALIGNED, 0, 1),
    "gemma4_unified": (0, BILINEAR_ALIGNED, 0, 1),
    "glmga": (4, BICUBIC, 0, 3),
    "hunyuan_vl": (4, BILINEAR, 0, 4),
    "hyperclovax_vision_v2": (0, BILINEAR_ALIGNED, 16, 1),
    "muse_glimmer": (4, BILINEAR_ZEROS, 4, 1),
    "lighton_ocr": (0, BILINEAR_ALIGNED, 0, 1),
    "mistral3": (0, BILINEAR_ALIGNED, 0, 1),
    "paddleocr_vl": (4, BILINEAR, 0, 3),
    "qwen2_5_omni_thinker": (0, BILINEAR_ALIGNED, 16, 3),
    "qwen3_5": (8, BILINEAR_ALIGNED, 0, 3),
    "video_llama_3": (0, BILINEAR_ALIGNED, 0, 1),
}
#: Whose patches are row by row.
RASTER = ("gemma4", "gemma4_unified", "hunyuan_vl", "lighton_ocr", "mistral3", "muse_glimmer", "paddleocr_vl")


@cache
def model_of(family):
    return tiny_model(family)


@pytest.mark.parametrize("family", FOUND)
def test_what_is_found(family):
    """That its features are the model's own is proven on the way."""
    model = model_of(family)
    side, sampling, window, axes = FOUND[family]
    tower, geometry = grid_tower_of(model, ragged=False)
    assert (geometry.position_table_side, geometry.position_sampling, geometry.window_tokens) == (
        side,
        sampling,
        window,
    )
    assert (geometry.unit, geometry.tokens_a_unit) == ((WINDOWS, window) if window else (IMAGE_TOKENS, 1))
    assert (family_of(model).tower, family_of(model).position_axes) == ("grid", axes)
    assert ("patch_positions" in tower.example(3, torch.float32)) == (family not in ("cosmos3_edge", "hunyuan_vl"))
    assert patch_inputs_of(model).raster == (family in RASTER)
    assert geometry.end_rows == (3 if family == "hunyuan_vl" else 0)


def test_mixtures_are_refused_for_their_decoder():
    """Before their processor is asked for anything."""
    with pytest.raises(UnsupportedModelError, match="is a mixture of experts"):
        prepare_images(tiny_model("qwen3_vl_moe"), "", HostFiles({}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_proven_too(dtype):
    grid_tower_of(tiny_model("glm4v").to(dtype), ragged=False)


class Sized(nn.Module):
    """A merger whose features depend on the height of the image."""

    def __init__(self, merger, model):
        super().__init__()
        self.merger, self.model = merger, model

    def forward(self, x, *args):
        return self.merger(x, *args) * self.model.seen_height


def test_features_that_depend_on_something_else_are_refused(monkeypatch):
    model = tiny_vlm("qwen2_vl")
    model.model.visual.merger = Sized(model.model.visual.merger, model)
    own = model.get_image_features

    def get_image_features(pixel_values, image_grid_thw, **kwargs):
        model.seen_height = 1 + float(image_grid_thw[0, 1]) % 5
        return own(pixel_values, image_grid_thw, **kwargs)

    monkeypatch.setattr(model, "get_image_features", get_image_features)
    with pytest.raises(UnsupportedModelError, match=r"makes other features of a grid than tt-edge's inputs do"):
        grid_tower_of(model, ragged=False)


def test_other_rows_of_its_own_are_refused(monkeypatch):
    """One behind each image is none that is followed; HunyuanOCR's are."""
    model = tiny_vlm("qwen2_vl")
    own = model.get_image_features

    @wraps(own)
    def get_image_features(*args, **kwargs):
        out = own(*args, **kwargs)
        out.pooler_output = [torch.cat([each, each[-1:]]) for each in out.pooler_output]
        return out

    monkeypatch.setattr(model, "get_image_features", get_image_features)
    with pytest.raises(UnsupportedModelError, match=r"makes \d+ rows of features for \d+ image tokens \(ends of lines"):
        grid_tower_of(model, ragged=False)


def test_other_positions_are_refused(monkeypatch):
    model = tiny_vlm("qwen2_vl")
    own = model.model.get_rope_index

    @wraps(own)
    def get_rope_index(*args, **kwargs):
        positions, deltas = own(*args, **kwargs)
        return positions.flip(0), deltas

    monkeypatch.setattr(model.model, "get_rope_index", get_rope_index)
    with pytest.raises(
        UnsupportedModelError, match=r"places image tokens on 3 axes .* in another way than the Qwen-VL"
    ):
        grid_tower_of(model, ragged=False)


def test_another_resampling_is_refused():
    model = tiny_vlm("qwen3_vl")
    model.model.visual.interpolation_mode = "nearest"
    with pytest.raises(
        UnsupportedModelError, match=r"resamples its table of positions in a way .* \(nearest, align_corners\)"
    ):
        grid_tower_of(model, ragged=False)


def test_a_tower_that_does_not_run_on_patches(monkeypatch):
    model = tiny_vlm("qwen2_vl")
    monkeypatch.setattr(model.config.vision_config, "in_channels", 4)
    with pytest.raises(UnsupportedModelError, match=r"does not run on patches of 1568 numbers \("):
        grid_tower_of(model, ragged=False)


def test_it_is_done_once(monkeypatch):
    model = model_of("glm_ocr")
    first = grid_tower_of(model, ragged=False)[1]
    monkeypatch.setattr(found, "_watched", SimpleNamespace)  # not called
    assert grid_tower_of(model, ragged=False)[1] == first
    assert grid_tower_of(model, ragged=True)[1].ragged
