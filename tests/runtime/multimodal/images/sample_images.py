"""Images to preprocess, and comparison with what transformers makes of them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from tt_edge.compile.vision.processing.known_prompts import KNOWN_PROMPTS
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processor_types import PROCESSOR_TYPES, class_name
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings

#: Heights and widths: of cameras, odd, tiny, upright, and a strip.
SIZES = [(140, 196), (480, 640), (333, 517), (28, 28), (5, 900), (1080, 1920), (61, 59), (900, 200)]


def photo(height, width, seed=0):
    """A gradient with edges, letters and noise, ``[H, W, 3]``."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 128 + 100 * np.sin(x / 3)], axis=-1)
    base[(y // 5 + x // 7) % 3 == 0] //= 2
    image = Image.fromarray(np.clip(base + generator.normal(0, 8, base.shape), 0, 255).astype(np.uint8))
    ImageDraw.Draw(image).text((width // 8, height // 3), "STOP 25 m", fill=(255, 255, 255))
    return np.array(image)


def steps_apart(got, want, std, channel_axis=1):
    """Differences of normalised pixels in steps of 255, of every pixel. ``std`` of three channels."""
    shape = [1] * got.ndim
    shape[channel_axis] = -1
    return np.abs(np.asarray(got) - np.asarray(want)) * np.asarray(std).reshape(shape) * 255


def assert_same_pixels(got, want, std, channel_axis=1):
    """transformers resizes with torchvision, tt-edge with Pillow: one step of 255 apart, two in a pixel of 50,000."""
    assert np.shape(got) == np.shape(want)
    steps = steps_apart(got, want, std, channel_axis)
    assert steps.max() <= 2.01
    assert (steps > 1.01).mean() <= 2e-5


def tiled_settings(model_type, image, tile, tokens=4, **placeholders):
    """Settings of a checkpoint whose vision network takes tiles."""
    geometry = VisionGeometry(model_type, TILES, tokens, tile_size=tile)
    return settings_of(model_type, image, geometry, Placeholders("<image>", **placeholders))


def settings_of(family, image, geometry, placeholders=None, video=None, **model):
    """Settings of a checkpoint of a ``family``, with its image processor where they name none; or of a class of image processor."""
    words = placeholders or Placeholders("<image>")
    if family in PROCESSOR_TYPES and family not in KNOWN_PROMPTS:
        return CheckpointSettings(image, model, geometry, words, video or {}, family)
    known = KNOWN_PROMPTS[family]
    name = known.processor if known.processor == "Eagle2" else class_name(image, known.processor)
    model = {"model_type": family, **model}
    return CheckpointSettings({**image, **known.settings}, model, geometry, words, video or {}, name, known.video)
