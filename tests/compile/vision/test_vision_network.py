"""Vision towers as separate networks: Hugging Face's numbers at odd sizes, one image and several at once; and engines."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.compile.compiled_once import compiled_once
from tests.models.tiny_vlms import VLMS, tiny_vlm
from tt_edge.compile.limits import with_image_tokens
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.network import TowerCompiler
from tt_edge.compile.vision.tower import tower_of
from tt_edge.config import CompileConfig
from tt_edge.contract import IOContract, ShapeRange
from tt_edge.errors import CapacityError, InvalidInputError, UnsupportedModelError
from tt_edge.network.build import build_engine
from tt_edge.network.legalize.contract import in_form, limits_in_form
from tt_edge.network.legalize.form import Form
from tt_edge.network.legalize.legalize import legalize
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.vision_inputs import vision_inputs
from tt_edge.tensorrt_features import features_of_release

GRID, TILED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), ("llava", "internvl", "blip-2", "eagle2")
#: Frames, rows and columns of patches: odd ones, one image, three, a video, a strip.
GRIDS = {
    "odd": [(1, 10, 14)],
    "three": [(1, 4, 6), (1, 10, 14), (1, 2, 2)],
    "video": [(3, 6, 4)],
    "whole windows": [(1, 16, 8)],
    "mixed": [(2, 4, 10), (1, 18, 6)],
}


#: Towers' attention, and the size of its heads: ViTAttentionPlugin has no heads of 16.
ATTENTIONS = {"native": 16, "plugin": 64}


@cache
def compiled(family, precision="fp32", attention="native", head=None):
    dtype = torch.float16 if precision == "fp16" else torch.float32
    model = tiny_vlm(family, dtype, tower_head=head or ATTENTIONS[attention])
    limits = {"max_seq_len": 128, "max_input_len": 64, "max_image_tokens": 128}
    config = CompileConfig.of(precision=precision, vision_attention=attention, **limits)
    family = family_of(model)
    tower, geometry = tower_of(model, family, ragged=attention == "plugin")
    config = config.with_limits(with_image_tokens(config.limits, geometry, most_tiles=1))
    vision = compiled_once(TowerCompiler(model, config, tower, geometry))
    return model, vision.network, vision.contract, ReferenceEvaluator(vision.network), vision


def picture(contract, grid=None, tiles=1, seed=0):
    geometry, generator = contract.geometry, np.random.default_rng(seed)
    if grid is None:
        pixels = generator.standard_normal((tiles, 3, *geometry.tile_size)).astype(np.float32)
        return ProcessedImage(pixels, None, tiles * geometry.tokens_a_unit)
    count = int(np.prod(grid))
    pixels = generator.standard_normal((count, geometry.patch_dim)).astype(np.float32)
    return ProcessedImage(pixels, grid, count // geometry.merge_size**2)


def ours(contract, evaluator, pictures):
    feeds, rows = vision_inputs(contract, pictures)
    return {name: array[rows] for name, array in evaluator.run(feeds).items()}


def hugging_faces(model, pictures):
    """Features by the names of the network's outputs, float32; computed in the model's own precision."""
    pixels = torch.from_numpy(np.concatenate([p.pixels for p in pictures])).to(model.dtype)
    grids = [p.grid for p in pictures]
    with torch.no_grad():
        if None in grids:
            want = model.get_image_features(pixel_values=pixels)
        else:
            want = model.model.get_image_features(pixels, torch.tensor(grids))
    wanted = {"image_features": torch.cat(list(want.pooler_output))}
    for level, features in enumerate(getattr(want, "deepstack_features", None) or ()):
        wanted[f"deepstack_features_{level}"] = torch.cat(list(features))
    return {name: features.float().numpy() for name, features in wanted.items()}


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", GRID)
def test_features_are_hugging_faces_at_any_grid(family, attention, grids):
    model, _, contract, evaluator, _ = compiled(family, attention=attention)
    pictures = [picture(contract, grid, seed=i) for i, grid in enumerate(GRIDS[grids])]
    got = ours(contract, evaluator, pictures)
    wanted = hugging_faces(model, pictures)
    assert got.keys() == wanted.keys()
    for name, features in wanted.items():
        assert np.abs(got[name] - features).max() < 2e-5 * np.abs(features).max(), name


@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", TILED)
def test_features_are_hugging_faces_for_tiles(family, attention, tiles):
    model, _, contract, evaluator, _ = compiled(family, attention=attention)
    given = picture(contract, tiles=tiles)
    got = ours(contract, evaluator, [given])["image_features"]
    want = hugging_faces(model, [given])["image_features"]
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", VLMS)
def test_half_precision_is_as_near_as_pytorch(family, attention):
    _, _, contract, evaluator, _ = compiled(family, "fp16", attention)
    model = compiled(family, attention=attention)[0]
    given = [picture(contract, (1, 10, 14)) if family in GRID else picture(contract, tiles=2)]
    got = ours(contract, evaluator, given)["image_features"].astype(np.float32)
    exact = hugging_faces(model, given)["image_features"]
    half = hugging_faces(compiled(family, "fp16", attention)[0], given)["image_features"]
    assert np.linalg.norm(got - exact) < 2 * np.linalg.norm(half - exact) + 1e-4 * np.linalg.norm(exact)


@pytest.mark.parametrize("family", VLMS)
def test_features_are_hugging_faces_without_attention_layers(family):
    """In the only other form that a tower has: matrix multiplies and a softmax, for TensorRT before 10.14."""
    model, network, contract, _, _ = compiled(family)
    assert legalize(network, features_of_release("10.14")).form == Form()
    legal = legalize(network, features_of_release("10.3"))
    assert legal.network.kinds()["ATTENTION"] == 0
    evaluator = ReferenceEvaluator(legal.network)
    if family in GRID:
        given = [[picture(contract, grid, seed=i) for i, grid in enumerate(grids)] for grids in GRIDS.values()]
    else:
        given = [[picture(contract, tiles=count)] for count in (1, 3)]
    for pictures in given:
        got = ours(contract, evaluator, pictures)
        wanted = hugging_faces(model, pictures)
        assert got.keys() == wanted.keys()
        for name, features in wanted.items():
            assert np.abs(got[name] - features).max() < 2e-5 * np.abs(features).max(), name


@pytest.mark.parametrize("family", VLMS)
def test_half_precision_without_attention_layers_is_as_near_as_pytorch(family):
    half, network, contract, _, _ = compiled(family, "fp16")
    evaluator = ReferenceEvaluator(legalize(network, features_of_release("10.3")).network)
    given = [picture(contract, (1, 10, 14)) if family in GRID else picture(contract, tiles=2)]
    exact, pytorch = (hugging_faces(model, given)["image_features"] for model in (compiled(family)[0], half))
    got = ours(contract, evaluator, given)["image_features"].astype(np.float32)
    assert np.linalg.norm(got - exact) < 2 * np.linalg.norm(pytorch - exact) + 1e-4 * np.linalg.norm(exact)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_an_engine_is_built_without_attention_layers(tensorrt, family):
    _, network, contract, _, _ = compiled(family, "fp16")
    legal = legalize(network, features_of_release("10.3"))
    contract = in_form(contract, legal.form, limits_in_form(contract, legal.form, network))
    assert build_engine(tensorrt, legal.network, contract.profiles(), "sm89", io.BytesIO()).bytes


@pytest.mark.parametrize("family", VLMS)
def test_an_engine_is_built(tensorrt, family):
    _, network, contract, _, _ = compiled(family, "fp16")
    file = io.BytesIO()
    assert build_engine(tensorrt, network, contract.profiles(), "sm89", file).bytes
    # LLaVA's second last layer is taken, as Eagle's; of BLIP-2 it is two layers and a Q-Former of two with cross attention.
    layers = {"qwen2_vl": 2, "qwen2_5_vl": 3, "qwen3_vl": 3, "llava": 2, "internvl": 2, "blip-2": 6, "eagle2": 1}
    assert network.kinds()["ATTENTION"] == layers[family]
    assert IOContract.from_dict(contract.to_dict()) == contract


def test_too_many_tokens():
    contract = compiled("qwen2_vl")[2]
    with pytest.raises(CapacityError, match="images and videos have 140 image tokens, more than max_image_tokens 128"):
        vision_inputs(contract, [picture(contract, (1, 20, 14))] * 2)


def test_windows_that_are_nearly_empty():
    contract = compiled("qwen2_5_vl")[2]
    with pytest.raises(CapacityError, match="leave 25 windows partly empty, and the compiled model takes 16; give"):
        vision_inputs(contract, [picture(contract, (1, 2, 200))])


def test_a_grid_that_is_none():
    contract = compiled("qwen2_vl")[2]
    odd = picture(contract, (1, 3, 4))
    with pytest.raises(InvalidInputError, match=r"grid \(1, 3, 4\); its rows and columns must be multiples of 2"):
        vision_inputs(contract, [odd])


def test_the_plugins_layers():
    """One for each attention among a segment's tokens. This Q-Former has as many queries as patches, so it is of them, too."""
    layers = {"qwen2_vl": 2, "qwen2_5_vl": 3, "qwen3_vl": 3, "llava": 2, "internvl": 2, "blip-2": 6, "eagle2": 1}
    for family, count in layers.items():
        _, network, contract, _, _ = compiled(family, "fp16", "plugin")
        kinds = network.kinds()
        assert kinds["PLUGIN_V3"] == count
        assert "ATTENTION" not in kinds
        assert IOContract.from_dict(contract.to_dict()) == contract
        names = {spec.name for spec in contract.inputs}
        assert "segment_ids" not in names
        assert ("cu_window_seqlens" in names) == (family == "qwen2_5_vl")


def test_windows_are_offsets():
    """Of Qwen2.5-VL, two layers have windows and one has segments; no place is left empty at the images' edges."""
    _, network, contract, _, _ = compiled("qwen2_5_vl", "fp16", "plugin")
    offsets = [layer.inputs[3] for layer in network.layers if layer.kind == "PLUGIN_V3"]
    assert offsets == ["cu_window_seqlens", "cu_seqlens", "cu_window_seqlens"]
    feeds, rows = vision_inputs(contract, [picture(contract, (1, 10, 14)), picture(contract, (1, 4, 6), seed=1)])
    # 5 x 7 tokens are windows of 4 x 4, 4 x 3, 1 x 4 and 1 x 3; 2 x 3 are one.
    assert np.diff(feeds["cu_window_seqlens"]).tolist() == [4 * n for n in (16, 12, 4, 3, 6)]
    assert feeds["cu_seqlens"].tolist() == [0, 140, 164]
    assert (len(feeds["max_seqlen_carrier"]), len(feeds["patches"]), len(rows)) == (140, 41, 41)


def test_a_picture_smaller_than_the_least(monkeypatch):
    """Room that is left stands in segments and windows of its own, and changes nothing."""
    model, _, contract, evaluator, _ = compiled("qwen2_5_vl", attention="plugin")
    wide = replace(contract, limits=replace(contract.limits, min_image_tokens=50))
    given = picture(contract, (1, 4, 6))
    feeds, _ = vision_inputs(wide, [given])
    assert np.diff(feeds["cu_window_seqlens"]).max() <= 4 * contract.geometry.window_tokens
    assert feeds["cu_seqlens"].tolist() == [0, 24, 200]
    with torch.no_grad():
        want = model.model.get_image_features(torch.from_numpy(given.pixels), torch.tensor([[1, 4, 6]])).pooler_output[
            0
        ]
    assert np.abs(ours(wide, evaluator, [given])["image_features"] - want.numpy()).max() < 1e-5 * want.abs().max()


def test_long_pictures_waste_no_windows():
    """Of 2 x 200 patches each window is nearly empty, which matters to windows that are filled up and not to offsets."""
    contract = compiled("qwen2_5_vl", attention="plugin")[2]
    feeds, _ = vision_inputs(contract, [picture(contract, (1, 2, 200))])
    assert len(feeds["patches"]) == 100


@pytest.mark.parametrize("head", [72, 80, 128])
def test_head_sizes_of_the_plugin(head):
    model, _, contract, evaluator, _ = compiled("qwen2_5_vl", attention="plugin", head=head)
    given = picture(contract, (1, 6, 10))
    with torch.no_grad():
        want = model.model.get_image_features(torch.from_numpy(given.pixels), torch.tensor([[1, 6, 10]])).pooler_output[
            0
        ]
    assert np.abs(ours(contract, evaluator, [given])["image_features"] - want.numpy()).max() < 2e-5 * want.abs().max()


def test_what_the_plugin_has_not():
    with pytest.raises(
        UnsupportedModelError, match=r"head_size 16 is not supported by ViTAttentionPlugin \(64, 72, 80, 128\)"
    ):
        compiled("qwen2_vl", attention="plugin", head=16)
    with pytest.raises(UnsupportedModelError, match=r"ViTAttentionPlugin has no bf16; give --precision fp16, or use"):
        compiled("internvl", "bf16", "plugin")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "blip-2"])
def test_all_but_the_plugin_is_built(tensorrt, family):
    """No builder here takes the plugin. One takes the rest, with inputs in place of its results and its operands as outputs."""
    _, network, contract, _, _ = compiled(family, "fp16", "plugin")
    plugins = [layer for layer in network.layers if layer.kind == "PLUGIN_V3"]
    others = [layer for layer in network.layers if layer.kind != "PLUGIN_V3"]
    made = {name for layer in others if layer.kind != "CONSTANT" for name in layer.outputs}
    taken = {name for layer in others for name in layer.inputs}
    outputs = [*network.outputs, *(name for plugin in plugins for name in plugin.inputs if name in made)]
    (ranges,) = contract.profiles()
    profile = {name: ranges[name] for name in network.inputs if name in taken}
    units = next(iter(ranges.values()))
    for plugin in plugins:
        result = plugin.outputs[0]
        carrier = network.tensors[plugin.inputs[4]].shape  # of tiles, as many as a tile has tokens
        tokens = carrier[0] if contract.geometry.tile_size else contract.geometry.merge_size**2
        sizes = (shape[0] * tokens for shape in (units.min, units.opt, units.max))
        profile[result] = ShapeRange(*((size, *network.tensors[result].shape[1:]) for size in sizes))
    rest = replace(network, inputs=list(profile), outputs=list(dict.fromkeys(outputs)), layers=others)
    assert build_engine(tensorrt, rest, (profile,), "sm89", io.BytesIO()).bytes
