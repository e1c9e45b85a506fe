"""LLaVA's and BLIP-2's preprocessing beside transformers' own."""

from __future__ import annotations

import pytest
from PIL import Image
from transformers import BlipImageProcessor, CLIPImageProcessor, LlavaImageProcessor

from tests.runtime.multimodal.images.sample_images import SIZES, assert_same_pixels, photo, tiled_settings
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images.processors import image_processor_for

SIDE = 56
CHECKPOINTS = {
    "clip": ("llava", CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})),
    "padded": (
        "llava",
        LlavaImageProcessor(do_pad=True, size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
    ),
    "cropped from larger": ("llava", CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SIDE)),
    "cropped from smaller": ("llava", CLIPImageProcessor(size={"shortest_edge": 41}, crop_size=SIDE)),
    "bilinear": ("llava", CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE, resample=2)),
    "blip": ("blip-2", BlipImageProcessor(size={"height": SIDE, "width": SIDE})),
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_pixels_are_those_of_transformers(checkpoint, size):
    model_type, theirs = CHECKPOINTS[checkpoint]
    ours = image_processor_for(tiled_settings(model_type, theirs.to_dict(), (SIDE, SIDE), tokens=16))
    got = ours.process(photo(*size))
    want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="np")["pixel_values"]
    assert_same_pixels(got.pixels, want, theirs.image_std)
    assert (got.tokens, got.grid, got.spans) == (16, None, [])


def test_a_strip():
    """BLIP-2 stretches it; for LLaVA it would become a quarter of a billion pixels."""
    blip = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    got = image_processor_for(tiled_settings("blip-2", blip.to_dict(), (SIDE, SIDE))).process(photo(1, 5000))
    want = blip(images=[Image.fromarray(photo(1, 5000))], return_tensors="np")["pixel_values"]
    assert_same_pixels(got.pixels, want, blip.image_std)
    clip = tiled_settings("llava", CLIPImageProcessor().to_dict(), (224, 224))
    with pytest.raises(InvalidInputError, match="image of 5000 x 1 pixels cannot be resized to 1120000 x 224; crop it"):
        image_processor_for(clip).process(photo(1, 5000))


def test_another_size_than_the_networks():
    with pytest.raises(BundleError, match=r"makes images of \(224, 224\), and the vision network takes \(56, 56\)"):
        image_processor_for(tiled_settings("llava", CLIPImageProcessor().to_dict(), (56, 56)))


@pytest.mark.parametrize("bad", [{"size": "large"}, {"size": {"width": 3}}, {"image_mean": 0.5}, {"image_std": [1, 2]}])
def test_malformed_settings(bad):
    with pytest.raises(BundleError, match="the image processor's settings are malformed"):
        image_processor_for(tiled_settings("blip-2", bad, (56, 56)))
