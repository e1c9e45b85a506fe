"""Image settings in a bundle that nobody vouches for: each wrong value is named in one line, and nothing is computed with it."""

from __future__ import annotations

import json

import pytest

from tests.runtime.multimodal.images.sample_images import tiled_settings
from tt_edge.compile.files import HostFiles
from tt_edge.contract import IMAGE_TOKENS, VisionGeometry
from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import image_processor_for, read_settings

GRID = VisionGeometry("qwen2_5_vl", IMAGE_TOKENS, 1, merge_size=2, patch_dim=3 * 2 * 14**2)
PROMPT = ImagePrompt("Qwen2VLImageProcessor", Placeholders("<image>", "<video>"), (1, 2))

WRONG = [0, -1, 10**30, "14", 14.5, None, True, [14], {}]
OF_GRIDS = ("patch_size", "merge_size", "temporal_patch_size")


def of_grid(**image):
    files = HostFiles({"preprocessor_config.json": json.dumps(image).encode()})
    return image_processor_for(read_settings(files, {"model_type": "qwen2_5_vl"}, GRID, PROMPT))


def refused(make, *words):
    with pytest.raises(BundleError, match="the image processor's settings are malformed") as found:
        make()
    message = str(found.value)
    assert all(word in message for word in words), message
    assert message.endswith("correct preprocessor_config.json and compile the model again")
    assert "\n" not in message


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("name", OF_GRIDS)
def test_sizes_of_patches(name, value):
    refused(lambda: of_grid(**{name: value}), f"{name} is {value!r}", "not an integer from 1 to 16384")


def test_patches_of_another_size_than_the_networks():
    assert (
        of_grid(do_resize=True).patch_size
        == of_grid(patch_size=14, merge_size=2, temporal_patch_size=2).patch_size
        == 14
    )
    refused(
        lambda: of_grid(patch_size=16), "patch_size 16 and temporal_patch_size 2 make patches of 1536 numbers", "1176"
    )
    refused(lambda: of_grid(merge_size=1), "merge_size is 1, and the vision network has 2")


@pytest.mark.parametrize("value", [-1, 10**30, "many", 0.5, [1]], ids=repr)
@pytest.mark.parametrize(
    "settings", [{"max_pixels": ...}, {"min_pixels": ...}, {"size": {"longest_edge": ...}}], ids=str
)
def test_bounds_of_pixels(settings, value):
    filled = json.loads(json.dumps(settings, default=lambda _: value))
    refused(lambda: of_grid(**filled), f"number of pixels is {value!r}")


@pytest.mark.parametrize("value", [0, -28, 10**30, "28", 28.5, None, True], ids=repr)
@pytest.mark.parametrize("family", ["internvl", "eagle2", "blip-2"])
def test_sizes_of_tiles(family, value):
    def made(size):
        return image_processor_for(tiled_settings(family, {"size": size}, (28, 28)))

    refused(lambda: made({"height": value, "width": 28}), f"size.height is {value!r}, not an integer")
    refused(lambda: made({"height": 28, "width": value}), f"size.width is {value!r}, not an integer")
    refused(lambda: made(value), f"size is {value!r}, not an integer")


@pytest.mark.parametrize("name", ["min_patches", "max_patches"])
@pytest.mark.parametrize("value", [0, -1, 65, "3", None], ids=repr)
def test_numbers_of_tiles(name, value):
    image = {"size": 28, name: value}
    refused(lambda: image_processor_for(tiled_settings("internvl", image, (28, 28))), f"{name} is {value!r}")


@pytest.mark.parametrize("value", [-3, 10**30, "28", True], ids=repr)
def test_the_shortest_edge(value):
    image = {"size": {"shortest_edge": value}, "crop_size": 28}
    refused(lambda: image_processor_for(tiled_settings("llava", image, (28, 28))), f"shortest_edge is {value!r}")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"image_std": [0, 1, 1]}, "image_std is [0, 1, 1], not three numbers from 0.001"),
        ({"image_std": [10**400, 1, 1]}, "OverflowError"),
        ({"image_mean": ["nan", 0, 0]}, "image_mean is ['nan', 0, 0], not three numbers from 0 to 1"),
        ({"image_mean": [-9, 0, 0]}, "image_mean is [-9, 0, 0]"),
        ({"resample": 77}, "resample is 77, not an integer from 0 to 5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["internvl", "eagle2", "blip-2", "qwen"])
def test_colours_and_filters(family, image, words):
    if (
        family == "qwen" and words == "OverflowError"
    ):  # its settings are read from a file, which may not hold such a number
        with pytest.raises(BundleError, match=r"preprocessor_config\.json is not valid JSON .* beyond a double"):
            of_grid(**image)
    elif family == "qwen":
        refused(lambda: of_grid(**image), words)
    else:
        refused(lambda: image_processor_for(tiled_settings(family, {"size": 28, **image}, (28, 28))), words)


@pytest.mark.parametrize("content", [b"[" * 200_000 + b"]" * 200_000, b'{"a":' * 200_000 + b"1" + b"}" * 200_000])
@pytest.mark.parametrize(
    "name", ["preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"]
)
def test_nesting(name, content):
    files = HostFiles({"preprocessor_config.json": b'{"patch_size": 14}', name: content})
    with pytest.raises(
        BundleError, match=rf"^{name} is not valid JSON \(it is nested deeper than 100 levels\); compile"
    ):
        read_settings(files, {"model_type": "qwen2_5_vl"}, GRID, PROMPT)


def test_settings_that_are_no_object():
    files = HostFiles({"processor_config.json": b'{"image_processor": [1]}'})
    with pytest.raises(BundleError, match="settings that are no object; correct it and compile the model again"):
        read_settings(files, {"model_type": "qwen2_5_vl"}, GRID, PROMPT)
