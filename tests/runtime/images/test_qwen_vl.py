"""Preprocessing and positions of the Qwen-VL models, beside transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, Qwen2VLImageProcessor

from examples.road_scenes.evaluate import CHECKPOINT
from tests.tiny_vlms import IMAGE, tiny_vlm
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.images import image_processor_for
from tt_edge.runtime.images.mrope import mrope_positions
from tt_edge.runtime.images.processor import expand
from tt_edge.runtime.images.qwen_vl import QwenVLProcessor


def photo(height, width, seed=0):
    """A gradient with text-like edges and noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 128 + 100 * np.sin(x / 3)], axis=-1)
    base[(y // 5 + x // 7) % 3 == 0] //= 2
    return np.clip(base + generator.normal(0, 8, base.shape), 0, 255).astype(np.uint8)


SIZES = [(140, 196), (480, 640), (333, 517), (28, 28), (5, 900), (1080, 1920), (61, 59)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_those_of_transformers(size):
    """transformers resizes with torchvision, tt-edge with Pillow: one step of 255 apart, two in a pixel of 50,000."""
    image, theirs = photo(*size), Qwen2VLImageProcessor()
    want = theirs(images=[Image.fromarray(image)], return_tensors="np")
    got = QwenVLProcessor().process(image)
    assert got.grid == tuple(want["image_grid_thw"][0])
    assert got.tokens == np.prod(got.grid) // 4
    std = np.repeat(np.array(theirs.image_std), 2 * 14 * 14)
    steps = np.abs((got.pixels - want["pixel_values"]) * std) * 255
    assert steps.max() <= 2.01
    assert (steps > 1.01).mean() <= 2e-5


def test_the_settings_of_a_checkpoint(tmp_path):
    import json

    settings = json.loads((CHECKPOINT / "preprocessor_config.json").read_text())
    ours = image_processor_for(settings, {"model_type": "qwen2_5_vl"})
    theirs = AutoImageProcessor.from_pretrained(CHECKPOINT)
    for size in [(140, 196), (400, 300)]:
        want = theirs(images=[Image.fromarray(photo(*size))], return_tensors="np")
        assert ours.process(photo(*size)).grid == tuple(want["image_grid_thw"][0])


def test_a_strip_is_refused():
    with pytest.raises(InvalidInputError, match="an image of 5000 x 1 pixels is longer than 200 times its width"):
        QwenVLProcessor().process(photo(1, 5000))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_equal_get_rope_index(family):
    model, generator = tiny_vlm(family).model, np.random.default_rng(0)
    for _ in range(20):
        ids, grids = [], []
        for _ in range(generator.integers(0, 4)):
            ids += [5] * generator.integers(1, 6)  # text stands between images: <|vision_start|>
            grids.append((1, 2 * int(generator.integers(1, 6)), 2 * int(generator.integers(1, 6))))
            ids += [IMAGE] * (grids[-1][1] * grids[-1][2] // 4)
        ids += [5] * generator.integers(1, 6)
        kinds = torch.tensor([[int(i == IMAGE) for i in ids]])
        want, delta = model.get_rope_index(torch.tensor([ids]), kinds, torch.tensor(grids) if grids else None)
        got, ours = mrope_positions(np.array(ids) == IMAGE, grids, 2)
        assert np.array_equal(got, want[:, 0].numpy())
        assert ours == int(delta)


def test_expand():
    image = QwenVLProcessor().process(photo(56, 56))
    assert expand("a<|image_pad|>b", "<|image_pad|>", [image]) == "a" + "<|image_pad|>" * 4 + "b"
    with pytest.raises(InvalidInputError, match=r"the prompt has 0 placeholders <\|image_pad\|> for 1 images"):
        expand("nothing here", "<|image_pad|>", [image])
