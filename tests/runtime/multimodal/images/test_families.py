"""One record a family: what stands for images in its prompts, on the runtime side of every family that is compiled."""

from __future__ import annotations

import pytest

from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.images import Placeholders
from tt_edge.runtime.multimodal.images.families import VISION_FAMILIES, family_for

IMG = {"start_image_token": "<i>", "extra_special_tokens": {"end_image_token": "</i>"}}


@pytest.mark.parametrize(
    ("model_type", "config", "placeholders"),
    [
        ("qwen2_vl", {}, Placeholders("<I>", "<V>")),
        ("qwen3_vl", IMG, Placeholders("<I>", "<V>", "<|vision_start|>", "<|vision_end|>")),
        ("llava", IMG, Placeholders("<I>")),
        ("blip-2", {}, Placeholders("<I>", leading=True)),
        ("paligemma", {"bos_token": {"content": "<b>"}}, Placeholders("<I>", before_text="<b>")),
        (
            "gemma3",
            {"boi_token": "<s>", "eoi_token": "<e>"},
            Placeholders("<I>", None, "\n\n<s>", "<e>\n\n", written="<s>"),
        ),
        ("internvl", {}, Placeholders("<I>", None, "<img>", "</img>")),
        ("internvl", IMG, Placeholders("<I>", None, "<i>", "</i>")),
        ("eagle2", {"extra_special_tokens": None}, Placeholders("<I>", None, "<img>", "</img>", numbered=True)),
    ],
)
def test_placeholders(model_type, config, placeholders):
    assert family_for(model_type).placeholders("<I>", "<V>", config) == placeholders


def test_unknown_families_are_refused():
    with pytest.raises(UnsupportedModelError, match="images for models of type 'mllama' are not preprocessed here"):
        family_for("mllama")


def test_every_family_that_is_compiled_has_a_record():
    pytest.importorskip("transformers")
    from tt_edge.compile.vision.families import FAMILIES, KNOWN

    assert FAMILIES.keys() | KNOWN.keys() == VISION_FAMILIES.keys()
