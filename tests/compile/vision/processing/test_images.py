"""A model type nobody added: what its processor and its decoder's call say of images, and each difference is refused by name."""

from __future__ import annotations

import json

import pytest
import transformers

from tests.models.any_vlm import write_any
from tests.models.vlm_checkpoints import write_checkpoint
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.files import HostFiles
from tt_edge.compile.vision import families
from tt_edge.compile.vision.families import Blocks, family_of
from tt_edge.compile.vision.processing import images, known_prompts, own_processor
from tt_edge.compile.vision.processing.images import prepare_images
from tt_edge.config import Precision
from tt_edge.contract import HIGH_RES_PIXELS
from tt_edge.errors import TTEdgeError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText
from tt_edge.runtime.multimodal.images.tiled import tiles
from tt_edge.runtime.multimodal.videos.frame_text import FrameText


def prepared(folder):
    model, files = load_model(folder, Precision.FP32), HostFiles.of_folder(folder)
    return model, prepare_images(model, str(folder), files), ImagePrompt.read(files)


@pytest.fixture(scope="module")
def aya(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aya")
    write_any("aya_vision", folder)
    return folder


def test_what_is_found(aya):
    """Tiles that are numbered in the prompt, and the whole image last."""
    model, seen, prompt = prepared(aya)
    around = {"start": "<|START_OF_IMG|>TILE_GLOBAL", "end": "<|END_OF_IMG|>"}
    rule = TileText("<|START_OF_IMG|>TILE_1", "TILE_{tile}", "TILE_{tile}", "TILE_GLOBAL", "<|END_OF_IMG|>")
    assert prompt.processor == "GotOcr2ImageProcessor"
    assert prompt.placeholders == Placeholders("<|IMG_PATCH|>", **around, written="<image>", tiles=rule)
    assert prompt.settings["crop_to_patches"] is True  # which its processor asks for, and its image processor does not
    assert (seen.most_tiles, seen.geometry.tile_size, seen.geometry.tokens_a_unit) == (5, (28, 28), 4)
    assert family_of(model) == seen.family
    assert (seen.family.decoder, seen.family.blocks) == ("model.language_model", Blocks.NONE)


def test_tiles_in_one_line_are_not_enough(aya, monkeypatch):
    """With the samples in one line, a tile's number might be that of its row or column: a larger image tells."""
    monkeypatch.setattr(own_processor, "_SHAPES", ((1, 1, 0), (1, 3, 1), (1, 1, 3), (3, 1, 2), (1, 2, 0)))
    assert prepared(aya)[2].placeholders.tiles.column == "TILE_{tile}"


def test_other_pixels_are_refused(aya, monkeypatch):
    same = tiles.normalize
    monkeypatch.setattr(tiles, "normalize", lambda image, mean, std: same(image[:, ::-1], mean, std))
    with pytest.raises(
        UnsupportedModelError, match=r"aya_vision's processor makes other pixels .* than tt-edge, by up to"
    ):
        prepared(aya)


def test_a_prompt_without_a_rule_is_refused(aya, monkeypatch):
    maker = transformers.AyaVisionProcessor
    same = maker.replace_image_token
    monkeypatch.setattr(
        maker, "replace_image_token", lambda self, inputs, image_idx, **more: f"{int(inputs['num_patches'][image_idx])} tiles"
        + same(self, inputs, image_idx, **more)
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"aya_vision: its processor writes .* which follows no rule"):
        prepared(aya)


def test_tiles_of_another_size_than_the_towers_are_refused(aya, monkeypatch):
    def tower_of(*_args, **_more):
        raise AssertionError("Input height (57) doesn't match model (56).")  # as timm's

    monkeypatch.setattr(images, "tower_of", tower_of)
    with pytest.raises(
        UnsupportedModelError, match=r"tower does not make features of each tile .* \(Input height \(57\)"
    ):
        prepared(aya)


def test_images_that_join_side_by_side_are_refused(aya, monkeypatch):
    maker = transformers.AyaVisionProcessor
    same = maker.get_text_with_replacements

    def joined(self, text, *args, **kwargs):
        found, offsets = same(self, text, *args, **kwargs)
        return [each.replace("<|END_OF_IMG|><|START_OF_IMG|>", "<|END_OF_IMG|>") for each in found], offsets

    monkeypatch.setattr(maker, "get_text_with_replacements", joined)
    with pytest.raises(UnsupportedModelError, match="other tokens of '<image><image>' than tt-edge"):
        prepared(aya)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("emu3", r"emu3's image processor Emu3ImageProcessor is not one of the \d+ that tt-edge follows"),
        ("aria", r"AriaForConditionalGeneration is a mixture of experts"),
        ("lfm2_vl", "Lfm2VlForConditionalGeneration has convolutions in place of attention in some layers"),
        (
            "minicpmv4_6",
            "MiniCPMV4_6ForConditionalGeneration has linear attention or a state space in place of attention in some layers",
        ),
        ("git", "GitForCausalLM has no get_image_features, so its language part takes images in another way"),
    ],
)
def test_refusals_name_the_feature(tmp_path, name, words):
    write_any(name, tmp_path)
    with pytest.raises(UnsupportedModelError, match=words) as found:
        prepared(tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["fast_vlm", "perception_lm"])
def test_towers_of_timm(tmp_path, name):
    """Pixels, tokens and embeddings are those of the checkpoint's processor and model."""
    pytest.importorskip("timm")
    write_any(name, tmp_path)
    _, seen, _ = prepared(tmp_path)
    assert (seen.geometry.tokens_a_unit, seen.most_tiles) == (4, {"fast_vlm": 1, "perception_lm": 4}[name])


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        (
            "do_resize",
            False,
            "setting do_resize is False, which tt-edge does not follow",
        ),  # before its pixels have no size
        ("resample", 0, "setting resample is 0, which tt-edge does not follow"),
        ("do_pad", False, "deepseek_vl_hybrid's processor"),  # which raises KeyError
        ("min_size", -1, "min_size is -1"),
    ],
)
def test_settings_that_a_processor_fails_with(tmp_path_factory, hybrid, setting, value, words):
    folder = tmp_path_factory.mktemp(setting)
    for path in hybrid.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"][setting] = value
    (folder / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(TTEdgeError, match=words) as found:
        prepared(folder)
    assert "\n" not in str(found.value)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid")
    write_any("deepseek_vl_hybrid", folder)
    return folder


def test_an_input_that_nobody_makes_is_named(hybrid, monkeypatch):
    monkeypatch.setattr(families, "_SERVED", families._SERVED - {HIGH_RES_PIXELS})
    with pytest.raises(UnsupportedModelError, match="vision tower takes high_res_pixel_values beside pixels"):
        prepared(hybrid)


def test_blocks_are_found_in_the_mask(tmp_path, monkeypatch):
    """Gemma 3's image tokens see each other; nobody says so here."""
    write_checkpoint("gemma3", tmp_path)
    monkeypatch.delitem(families.KNOWN, "gemma3")
    unknown = {name: each for name, each in known_prompts.KNOWN_PROMPTS.items() if name != "gemma3"}
    monkeypatch.setattr(images, "KNOWN_PROMPTS", unknown)
    _, seen, prompt = prepared(tmp_path)
    assert seen.family.blocks is Blocks.IMAGE
    assert prompt.placeholders == Placeholders(
        "<image_soft_token>", start="\n\n<start_of_image>", end="<end_of_image>\n\n", written="<start_of_image>"
    )


@pytest.mark.parametrize(("name", "blocks"), [("gemma4", Blocks.IMAGE_IN_WINDOWS), ("gemma4_unified", Blocks.IMAGE)])
def test_blocks_are_found_for_each_kind_of_layers(tmp_path, name, blocks):
    """The model makes one mask for layers with a sliding window, and one for the others."""
    write_any(name, tmp_path)
    _, seen, prompt = prepared(tmp_path)
    assert seen.family.blocks is blocks
    frames = FrameText("{clock} <boi>", "<eoi> {clock} <boi>", "<eoi>")
    assert prompt.placeholders == Placeholders(
        "<image>", "<|video|>", "<boi>", "<eoi>", written="<image>", frames=frames
    )
