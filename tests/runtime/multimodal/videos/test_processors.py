"""Settings of video processors: each is followed, or refused by name."""

from __future__ import annotations

import pytest

from tests.runtime.multimodal.images.sample_images import photo, settings_of
from tt_edge.contract import IMAGE_TOKENS, TILES, VisionGeometry
from tt_edge.errors import BundleError, InvalidInputError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processors import image_processor_for
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.processors import video_processor_for

WORDS = Placeholders("<image>", "<video>")
SIDE = {"height": 28, "width": 28}


def grids(**video):
    geometry = VisionGeometry("qwen2_vl", IMAGE_TOKENS, 1, merge_size=2, patch_dim=3 * 2 * 14**2)
    settings = settings_of("qwen2_vl", {}, geometry, WORDS, video)
    return video_processor_for(settings, image_processor_for(settings))


def tiles(image=(), **video):
    geometry = VisionGeometry("internvl", TILES, 4, tile_size=(28, 28))
    settings = settings_of("internvl", {"size": SIDE, **dict(image)}, geometry, WORDS, {"size": SIDE, **video})
    return video_processor_for(settings, image_processor_for(settings))


def test_videos_are_prepared_as_their_own_settings_say():
    assert grids(do_normalize=False).grid.std == (1, 1, 1)
    assert (grids(resample=2).grid.resample, grids().grid.resample) == (2, 3)
    with pytest.raises(UnsupportedModelError, match="the video processor's setting cap_pixels_per_frame is True"):
        grids(cap_pixels_per_frame=True)
    with pytest.raises(InvalidInputError, match="30 x 28 pixels, and its settings resize none"):
        grids(do_resize=False).process(Frames([photo(28, 30)], 2))
    with pytest.raises(BundleError, match="patch_size is 16 of videos, and 14 of images"):
        grids(patch_size=16)


def test_settings_of_frames_that_are_tiles():
    assert tiles(num_frames=3).sampling.places(30, 10.0) == [5, 15, 25]
    assert tiles(initial_shift=False, num_frames=3).sampling.places(30, 10.0) == [0, 10, 20]
    assert tiles(max_patches=3, crop_to_patches=True).frame.tile_size == (28, 28)  # a setting of images, not read here
    refused = {
        "the video processor's setting do_flip is True": {"do_flip": True},
        "the video processor's setting do_resize is False": {"do_resize": False},
        "makes images of \\(56, 56\\), and the vision network takes \\(28, 28\\)": {
            "size": {"height": 56, "width": 56}
        },
        "initial_shift is -1 of videos, and must be true, or 0 or more frames": {"initial_shift": -1},
        "num_frames is 0 of videos, and must be 1 or more": {"num_frames": 0},
    }
    for message, setting in refused.items():
        with pytest.raises((UnsupportedModelError, BundleError), match=message):
            tiles(**setting)


def test_frames_that_are_none():
    with pytest.raises(InvalidInputError, match="a video of 0 frames is none; give its frames"):
        Frames([], 2)
    with pytest.raises(InvalidInputError, match=r"frames of sizes \[\(28, 28\), \(28, 56\)\]; give frames of one size"):
        Frames([photo(28, 28), photo(28, 56)], 2)
