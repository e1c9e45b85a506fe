"""Every setting of transformers' image processors changes the same here as there, or is refused by name and value."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from PIL import Image

from tests.runtime.multimodal.images.sample_images import photo, settings_of, steps_apart
from tt_edge.contract import IMAGE_TOKENS, TILES, VisionGeometry
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.processor_types import PROCESSOR_TYPES
from tt_edge.runtime.multimodal.images.processors import PROCESSORS, image_processor_for
from tt_edge.runtime.multimodal.position_table import in_blocks

SIDE, LARGE = 28, 64
SMALL = {"height": SIDE, "width": SIDE}
GRIDS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
CROPPED = {"size": {"shortest_edge": SIDE}, "crop_size": SMALL}
#: By class whose images are grids: pixels of a patch's side, frames in it, patches of a token's side.
PATCHES = {
    "Glm4vImageProcessor": (14, 2, 2),
    "Glm46VImageProcessor": (14, 2, 2),
    "GlmgaImageProcessor": (14, 2, 2),
    "Cosmos3EdgeImageProcessor": (16, 1, 2),
    "PaddleOCRVLImageProcessor": (14, 1, 2),
    "HunYuanVLImageProcessor": (16, 1, 2),
    "VideoLlama3ImageProcessor": (14, 1, 1),
    "PixtralImageProcessor": (16, 1, 1),
    "MuseGlimmerImageProcessor": (14, 2, 2),
    "Gemma4ImageProcessor": (16, 1, 3),
    "Gemma4UnifiedImageProcessor": (48, 1, 1),
}
#: By class: a family that has it, or the class where none is known, and small sizes.
SIZES = {
    "CLIPImageProcessor": ("vipllava", CROPPED),
    "LlavaImageProcessor": ("llava", CROPPED),
    "ChameleonImageProcessor": ("ChameleonImageProcessor", CROPPED),
    "BlipImageProcessor": ("blip-2", {"size": SMALL}),
    "SiglipImageProcessor": ("paligemma", {"size": SMALL}),
    "Gemma3ImageProcessor": ("gemma3", {"size": SMALL}),
    "LlavaNextImageProcessor": ("llava_next", CROPPED | {"image_grid_pinpoints": GRIDS}),
    "LlavaOnevisionImageProcessor": ("llava_onevision", {"size": SMALL, "image_grid_pinpoints": GRIDS}),
    "Idefics2ImageProcessor": ("Idefics2ImageProcessor", {"size": {"shortest_edge": 14, "longest_edge": SIDE}}),
    "Kosmos2_5ImageProcessor": (
        "Kosmos2_5ImageProcessor",
        {"max_patches": 20, "patch_size": {"height": 14, "width": 14}},
    ),
    "Idefics3ImageProcessor": ("idefics3", {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": SIDE}}),
    "SmolVLMImageProcessor": ("smolvlm", {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": SIDE}}),
    "GotOcr2ImageProcessor": ("internvl", {"size": SMALL, "max_patches": 3}),
    "PPChart2TableImageProcessor": ("PPChart2TableImageProcessor", {"size": SMALL}),
    "VideoLlavaImageProcessor": ("VideoLlavaImageProcessor", CROPPED),
    "DeepseekVLImageProcessor": ("DeepseekVLImageProcessor", {"size": SMALL}),
    "DeepseekVLHybridImageProcessor": (
        "DeepseekVLHybridImageProcessor",
        {"size": SMALL, "high_res_size": {"height": LARGE, "width": LARGE}},
    ),
    "JanusImageProcessor": ("JanusImageProcessor", {"size": SMALL}),
    "Cohere2VisionImageProcessor": ("Cohere2VisionImageProcessor", {"size": SMALL, "max_patches": 3}),
    "GraniteDoclingImageProcessor": ("GraniteDoclingImageProcessor", {"size": SMALL, "max_patches": 3}),
    "Ovis2ImageProcessor": ("Ovis2ImageProcessor", {"size": SMALL, "max_patches": 4, "crop_to_patches": True}),
    "PerceptionLMImageProcessor": ("PerceptionLMImageProcessor", {"tile_size": SIDE, "max_num_tiles": 4}),
    "Phi4MultimodalImageProcessor": (
        "Phi4MultimodalImageProcessor",
        {"size": SMALL, "patch_size": 7, "dynamic_hd": 3},
    ),
    "Llama4ImageProcessor": ("Llama4ImageProcessor", {"size": SMALL, "max_patches": 4}),
    "MllamaImageProcessor": ("MllamaImageProcessor", {"size": SMALL, "max_image_tiles": 4}),
    "Qwen2VLImageProcessor": ("qwen2_vl", {"size": {"shortest_edge": 3136, "longest_edge": 6272}}),
    **{name: (name, {"size": {"shortest_edge": 3136, "longest_edge": 12544}}) for name in PATCHES},
    "PixtralImageProcessor": ("PixtralImageProcessor", {"size": {"longest_edge": 80}}),
    "MuseGlimmerImageProcessor": ("MuseGlimmerImageProcessor", {"max_image_tokens": 6}),
    "Gemma4ImageProcessor": ("Gemma4ImageProcessor", {"max_soft_tokens": 70}),
    "Gemma4UnifiedImageProcessor": ("Gemma4UnifiedImageProcessor", {"max_soft_tokens": 70}),
}
#: Values that no class has by default, or only some.
VALUES = {
    "do_convert_rgb": [False, None],
    "do_resize": [False, None],
    "do_rescale": [False, None],
    "rescale_factor": [1 / 127.5],
    "do_normalize": [False, None],
    "image_mean": [[0.1, 0.2, 0.3]],
    "image_std": [[0.9, 0.8, 0.7]],
    "resample": [0, 1, 2, 3, 4],
    "do_center_crop": [False, True, None],
    "crop_size": [{"height": 20, "width": 28}, {"height": 40, "width": 40}],
    "do_pad": [False, True, None],
    "pad_size": [{"height": 80, "width": 80}],
    "size": [
        {"shortest_edge": 40},
        {"height": 40, "width": 28},
        {"longest_edge": 40},
        {"shortest_edge": 28, "longest_edge": 30},
        28,
    ],
    "default_to_square": [True],
    "do_image_splitting": [False, None],
    "max_image_size": [{"longest_edge": 20}],
    "return_row_col_info": [True],
    "image_grid_pinpoints": [[[SIDE, SIDE]]],
    "min_patches": [2],
    "max_patches": [1],
    "resize_to_max_canvas": [True],
    "crop_to_patches": [True, False],
    "min_size": [10, 20],
    "high_res_size": [{"height": 40, "width": 40}],
    "high_res_resample": [0, 2],
    "high_res_image_mean": [[0.1, 0.2, 0.3]],
    "high_res_image_std": [[0.9, 0.8, 0.7]],
    "max_num_tiles": [1, 2],
    "dynamic_hd": [1, 2],
    "max_image_tiles": [1, 2],
    "tile_size": [20],
    "vision_input_type": ["vanilla"],
    "use_covering_area_grid": [False],
    "fine_route": [True],
    "dense_max_patches": [0, 8],
    "dense_max_scale": [0.5],
    "dense_min_aspect": [0.5],
    "dense_max_aspect": [3.0],
    "return_legacy_image_output": [False],
    "background_color": [[0, 0, 0]],
    "patch_size": [28],
    "patch_expand_factor": [2],
    "merge_size": [1],
    "temporal_patch_size": [1],
    "max_image_tokens": [3],
    "max_soft_tokens": [140],
    "pooling_kernel_size": [2],
    "min_pixels": [7000],
    "max_pixels": [4000],
    "do_pan_and_scan": [True, False],
    "pan_and_scan_min_crop_size": [8],
    "pan_and_scan_max_num_crops": [4],
    "pan_and_scan_min_ratio_to_activate": [1.2],
}
#: What no checkpoint decides: the call, or the text's processor.
OF_CALLS = {"data_format", "device", "disable_grouping", "image_seq_length", "input_data_format", "return_tensors"}
PAN_AND_SCAN = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 8,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
REFUSED = (UnsupportedModelError, BundleError)


def processor(family, image, side=SIDE):
    kind = IMAGE_TOKENS if family.startswith("qwen") or family in PATCHES else TILES
    patch, frames, merge = PATCHES.get(family, (14, 2, 2))
    grid = {"merge_size": merge, "patch_dim": 3 * frames * patch**2}
    sizes = grid if kind == IMAGE_TOKENS else {"tile_size": (side, side)}
    sizes |= {"high_res_size": (LARGE, LARGE)} if "Hybrid" in family else {}
    sizes = {"patch_dim": 3 * 14**2, "flattened_patches": 20} if "Kosmos" in family else sizes
    sizes |= {"padded_tiles": 4, "whole_tiles": True} if "Idefics2" in family else {}
    tokens = 5 if family.startswith("llava_") else 6 if "Phi4" in family else 4
    geometry = VisionGeometry(family, kind, tokens, **sizes, tiles=4)  # the last is of whole images only
    return image_processor_for(settings_of(family, image, geometry))


def high_res_of_transformers(theirs, picture):
    return theirs(images=[picture], return_tensors="pt").get("high_res_pixel_values")


def pixels_of_transformers(theirs, picture):
    asked = {"crop_to_patches": True} if "GotOcr2" in type(theirs).__name__ else {}
    out = theirs(images=[picture], return_tensors="pt", **asked)
    if "flattened_patches" in out:  # behind their rows and columns
        return out["flattened_patches"][..., 2:].numpy()
    pixels = next(out[key] for key in ("pixel_values", "pixel_values_images", "image_pixel_values") if key in out)
    own = pixels.float().numpy()  # Llama 4's are bfloat16
    if "Pixtral" in type(theirs).__name__:  # whole images
        rows, columns = (side // 16 for side in own.shape[2:])
        return own[0].reshape(3, rows, 16, columns, 16).transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    if "image_position_ids" in out:  # padded, row by row
        places = out["image_position_ids"][0]
        columns, rows = (places.max(0).values + 1).tolist()
        merge = PATCHES[type(theirs).__name__][2]
        return own[0][: rows * columns][in_blocks(np.arange(rows * columns).reshape(rows, columns), merge)]
    if any(name in type(theirs).__name__ for name in ("Paddle", "HunYuan", "MuseGlimmer")):  # row by row
        rows, columns = out["image_grid_thw"][0][1:].tolist()
        return own[in_blocks(np.arange(rows * columns).reshape(rows, columns), 2)].reshape(rows * columns, -1)
    if "Mllama" in type(theirs).__name__:  # without the tiles that an image lacks
        return own[0, 0, : out["num_tiles"][0][0]]
    if "Idefics2" in type(theirs).__name__:  # on a canvas of the largest size
        return np.pad(own[0], [(0, 0), (0, 0), *((0, SIDE - side) for side in own.shape[3:])])
    return own[0] if own.ndim == 5 else own


@pytest.mark.parametrize("name", SIZES)
def test_every_setting_is_followed_or_refused(name):
    family, sizes = SIZES[name]
    make, image = getattr(transformers, name), photo(50, 100)
    fields = set(make.valid_kwargs.__annotations__) - OF_CALLS
    assert fields <= VALUES.keys()
    followed = set()
    for field in sorted(fields):
        for value in VALUES[field]:
            more = PAN_AND_SCAN if value is True and field == "do_pan_and_scan" else {field: value}
            settings = {**make(**sizes).to_dict(), **more}
            try:
                ours = processor(family, settings)
            except REFUSED as error:
                message = str(error)
                assert any(words in message for words in (field, "the vision network takes", "size", "tiles of")), (
                    message
                )
                continue
            got = ours.process(image)
            try:
                want = pixels_of_transformers(make(**{**sizes, **more}), Image.fromarray(image))
            except (ValueError, TypeError):  # a half-given size of Qwen-VL; Llama 4 takes no pixels of 0 to 255
                assert field in ("size", "do_rescale")
                followed.add(field)
                continue
            if got.high_res is not None:
                larger = high_res_of_transformers(make(**{**sizes, **more}), Image.fromarray(image)).numpy()
                assert steps_apart(got.high_res, larger, ours.high_res_std).max() <= 2.01, (field, value)
            apart = ours.by_channel if name in PATCHES else lambda each: each.reshape(len(each), 3, -1)
            by_channel = [apart(each) for each in (got.pixels, want)]
            # Images are resized up to three times.
            assert steps_apart(*by_channel, getattr(ours, "std", (1, 1, 1))).max() <= 2.01, (field, value)
            followed.add(field)
    switches = {"do_normalize"} if "Kosmos" not in name else set()
    assert followed >= {*switches, "do_rescale", "rescale_factor", "image_mean", "resample", "do_convert_rgb"}


@pytest.mark.parametrize("name", SIZES)
def test_defaults_are_those_of_transformers(name):
    make = getattr(transformers, name)
    for field, value in PROCESSOR_TYPES[name].defaults.items():
        theirs = getattr(make if hasattr(make, field) else make(), field)
        assert (tuple(theirs) if isinstance(theirs, list) else theirs) == value, field


def test_every_class_has_its_defaults_and_its_preprocessing():
    assert PROCESSORS.keys() == PROCESSOR_TYPES.keys() == SIZES.keys() | {"Eagle2", "Vila"}


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("gemma3", PAN_AND_SCAN, "do_pan_and_scan is True, which tt-edge does not follow (only False or None)"),
        ("blip-2", {"do_resize": False}, "do_resize is False, which tt-edge does not follow (only True)"),
        ("blip-2", {"do_center_crop": True}, "do_center_crop is True"),
        ("paligemma", {"do_pad": True}, "do_pad is True"),
        ("llava", {"sharpen": 3}, "sharpen is 3, which tt-edge does not follow"),
        ("eagle2", {"pad_during_tiling": True}, "pad_during_tiling is True"),
        ("internvl", {"use_thumbnail": False}, "use_thumbnail is False"),
        ("llava", {"image_processor_type": "ViTImageProcessor"}, "the image processor is 'ViTImageProcessor'"),
        ("qwen2_vl", {"size": {"height": 28, "width": 28}}, "size is {'height': 28, 'width': 28}"),
    ],
    ids=str,
)
def test_what_changes_pixels_in_another_way_is_named(family, settings, words):
    with pytest.raises(UnsupportedModelError) as found:
        processor(family, settings)
    assert words in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("value", [0, -1, "1/255", float("inf"), None, True], ids=repr)
def test_factors_that_are_none(value):
    with pytest.raises(BundleError, match=r"rescale_factor is .*, not a number from 1e-6 to 1e6"):
        processor("blip-2", {"size": SIDE, "rescale_factor": value})


@pytest.mark.parametrize("named", ["CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor"])
def test_a_processor_by_another_of_its_names(named):
    key = "feature_extractor_type" if "Feature" in named else "image_processor_type"
    assert processor("llava", {key: named, "size": SIDE, "crop_size": SIDE}).shortest_edge == SIDE
