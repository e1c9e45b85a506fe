"""Limits for given images: they fit unscaled, with tiles and windows that are partly empty."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.models.vlm_checkpoints import write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.limits import with_image_tokens
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.config import CompileConfig, EngineTarget, Limits
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import InvalidInputError
from tt_edge.runtime import LLM

LIMITS = CompileConfig.of(precision="fp32", max_batch=1, max_input_len=64, max_seq_len=64)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("llava_next", [(60, 80), (57, 33)]),  # 34 tokens of 10 tiles
        ("qwen2_5_vl", [(40, 200)]),  # two windows, partly empty
    ],
)
def test_images_that_are_given_fit(family, sizes, tmp_path):
    images = [Image.fromarray(photo(*size)) for size in sizes]
    write_checkpoint(family, tmp_path / "checkpoint")
    compile_checkpoint(
        str(tmp_path / "checkpoint"), tmp_path / "out.ttedge", LIMITS, EngineTarget(), images=images, progress=False
    )
    with LLM.load(tmp_path / "out.ttedge", "reference") as llm:
        vision = llm.vision.with_exact_images()
        _, processed = vision.processor.tokenize(
            llm.tokenizer, vision.processor.placeholders.in_prompt * len(images), images, add_special_tokens=True
        )
        features = vision.encoder.encode(processed)
        tokens = sum(image.tokens for image in processed)
        assert {len(table) for table in features.values()} == {tokens}
        most = llm.session.contract.max_image_tokens
        unit = vision.encoder.session.contract.tower.tokens_a_unit
        assert tokens <= most < 2 * tokens + unit


def test_a_number_that_is_no_multiple_of_a_tile():
    """Room is for as many as are asked for, where a prompt may be as long."""
    geometry = VisionGeometry("llava_next", TILES, 5, tile_size=(28, 28))

    def most(tokens: int, length: int) -> int:
        limits = Limits(max_input_len=4, max_seq_len=length, max_image_tokens=tokens)
        return with_image_tokens(limits, geometry, most_tiles=4).max_image_tokens

    assert [most(24, 64), most(25, 64), most(24, 24), most(5, 5)] == [25, 25, 20, 5]
    with pytest.raises(InvalidInputError, match="max_image_tokens 4 is less than the 5 of one image"):
        most(4, 64)
