"""PyTorch's side of the comparison of vision-language models."""

from __future__ import annotations

import pytest
from PIL import Image
from transformers import LlavaProcessor

from tests.any_vlm import small_image_processor, tiny_tokenizer
from tt_edge.compile.parity.pytorch_vlm import processor_inputs
from tt_edge.errors import InvalidInputError


def test_a_prompt_that_the_processor_does_not_take():
    images = small_image_processor("LlavaImageProcessor", {})
    processor = LlavaProcessor(images, tiny_tokenizer("llava"), patch_size=7, image_token="<image>")
    picture = Image.new("RGB", (40, 30))
    with pytest.raises(
        InvalidInputError, match=r"'what is it\?' with 1 images \(.*\); without a chat template"
    ) as caught:
        processor_inputs(processor, "what is it?", [picture])
    assert "\n" not in str(caught.value)
    assert processor_inputs(processor, "<image>what is it?", [picture])["pixel_values"].shape[0] == 1
