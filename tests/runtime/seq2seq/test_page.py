"""Pages, beside transformers' own image processors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tt_edge.compile.files import HostFiles
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.seq2seq.page import PageProcessor
from tt_edge.runtime.seq2seq.pipeline import settings_of

pytest.importorskip("PIL")
pytest.importorskip("torchvision")


def page(height: int, width: int) -> np.ndarray:
    """Dark words on light paper, with a margin."""
    generator = np.random.default_rng(height)
    image = generator.integers(235, 250, (height, width, 3)).astype(np.uint8)
    for top in range(height // 6, height - height // 6, 9):
        image[top : top + 4, width // 5 : width - width // 7] = generator.integers(0, 90, (3,))
    return image


@pytest.mark.parametrize("size", [(180, 140), (70, 260), (64, 48), (33, 35)])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Donut", {}),
        ("Donut", {"do_align_long_axis": True}),
        ("Nougat", {}),
        ("ViT", {}),
        ("DeiT", {"do_center_crop": False}),
        ("Blip", {}),
    ],
)
def test_as_transformers(kind, settings, size):
    import transformers

    theirs = getattr(transformers, f"{kind}ImageProcessor")(size={"height": 96, "width": 64}, **settings)
    image = page(*size)
    wanted = theirs(image, return_tensors="np")["pixel_values"][0]
    ours = PageProcessor.from_settings(theirs.to_dict())
    got = ours.pixels(image)
    assert got.shape == wanted.shape == (3, 96, 64)
    steps = np.abs(got - wanted) * np.array(ours.std)[:, None, None] * 255
    assert steps.max() <= 2.01
    assert (steps > 1.01).mean() < 0.001


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_processor_type": "DeiTImageProcessor", "size": 64}, "do_center_crop on"),
        ({"image_processor_type": "DonutImageProcessor"}, "malformed"),
        ({"image_processor_type": "DonutImageProcessor", "size": 64, "do_pad": False}, "do_pad off"),
        (
            {"image_processor_type": "NougatImageProcessor", "size": 64, "do_align_long_axis": True},
            "do_align_long_axis on",
        ),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(BundleError, match=message):
        PageProcessor.from_settings(settings)


def test_another_processor_is_named():
    with pytest.raises(UnsupportedModelError, match="type CLIPImageProcessor are not prepared here"):
        PageProcessor.from_settings({"image_processor_type": "CLIPImageProcessor"})


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config.json": {"size": 5}},
        {"preprocessor_config.json": {"image_processor": {"size": 5}, "feature_extractor": {"size": 6}}},
        {"processor_config.json": {"image_processor": {"size": 5}, "num_query_tokens": 4}},
    ],
    ids=["own file", "nested", "one file for the whole processor"],
)
def test_where_a_checkpoint_has_its_settings(files):
    given = HostFiles({name: json.dumps(content).encode() for name, content in files.items()})
    assert settings_of(given, "image_processor") == {"size": 5}


def test_a_checkpoint_without_settings():
    assert settings_of(HostFiles({"processor_config.json": b'{"num_query_tokens": 4}'}), "image_processor") == {}
