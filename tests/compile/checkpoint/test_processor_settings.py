"""A processor's classes and parts: malformed ones are refused by name, before transformers trips over them."""

from __future__ import annotations

import json

import pytest

from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.processor_settings import check_processor
from tt_edge.compile.parity.images.pytorch_vlm import processor_of
from tt_edge.errors import InvalidInputError


@pytest.mark.parametrize(
    ("file", "settings", "said"),
    [
        ("processor_config.json", {"processor_class": 1.5}, "processor_class of processor_config.json is 1.5, not the name"),
        ("processor_config.json", {"image_processor": [1]}, r"image_processor of processor_config.json is \[1\], not an obj"),
        (
            "processor_config.json",
            {"video_processor": {"video_processor_type": {}}},
            r"video_processor.video_processor_type of processor_config.json is \{\}, not the name of a class",
        ),
        ("preprocessor_config.json", {"image_processor_type": 0}, "image_processor_type of preprocessor_config.json is 0"),
    ],
)  # fmt: skip
def test_named(tmp_path, file, settings, said):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "idefics2"}))
    (tmp_path / file).write_text(json.dumps(settings))
    with pytest.raises(InvalidInputError, match=f"{said}.*; correct it"):
        processor_of(tmp_path)


def test_what_is_absent(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": None, "processor_class": None}))
    check_processor(Checkpoint.open(tmp_path))
