"""Gemma 4 E2B and E4B, and Gemma 3n: inputs of each decoder layer, looked up by token id, in prompts with images.

The model's own code makes them of the ids: of an image's tokens Gemma 4 takes those of padding, and Gemma 3n, whose table ends
before them, those of token 0; special tokens of Gemma 3n are embedded by its tower's embedders.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from PIL import Image

from tests.compile.vision.answers import assert_equal_answers, compiled
from tests.models.any_vlm import tiny_config
from tests.models.differs import DIFFERS
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.vision.families import family_of
from tt_edge.config import CompileConfig
from tt_edge.errors import UnsupportedModelError

#: Prompts of more than 64 tokens are computed in pieces.
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=64, max_seq_len=256, max_image_tokens=128)


#: A tower of timm with few layers in place of Gemma 3n's, whose 36 blocks take long to trace (``benchmarks/coverage.py`` has it).
SMALL_TOWER = {
    "vision_config.architecture": "test_efficientnet",
    "vision_config.model_args": {},
    "vision_config.hidden_size": 256,
}


@pytest.mark.parametrize("name", ["gemma4_e2b", "gemma3n"])
def test_images_to_answers(tmp_path, monkeypatch, name):
    """Images in the midst of text and none, in one batch; then another question about an image, whose cache is used again."""
    if name == "gemma3n":
        pytest.importorskip("timm")
        differs = DIFFERS[name]
        monkeypatch.setitem(DIFFERS, name, dataclasses.replace(differs, config=differs.config | SMALL_TOWER))
    first, second = (Image.fromarray(photo(*size, seed)) for seed, size in enumerate(((60, 80), (57, 33))))
    with compiled(name, tmp_path, LIMITS) as (llm, theirs, _):
        contract = llm.session.contract
        assert [pair.past for pair in contract.kv_cache] == [
            f"past_{kind}_{number}" for number in range(2) for kind in ("key", "value")
        ]
        assert_equal_answers(
            llm,
            theirs,
            [
                ("<image>what is it?", [first]),
                ("look: <image> and <image> so", [second, first]),
                ("an eye, and <boi> for no image", []),
            ],
        )
        assert_equal_answers(llm, theirs, [("<image>what is that?", [first])])


def test_layer_inputs_that_cannot_be_handed_over_are_refused():
    config = tiny_config("llava")
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    config.text_config.hidden_size_per_layer_input = 8
    with pytest.raises(
        UnsupportedModelError,
        match=r"inputs of their own \(hidden_size_per_layer_input 8\).*per_layer_inputs; no backend",
    ):
        family_of(model)
