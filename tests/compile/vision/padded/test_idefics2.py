"""Idefics 2: images in their own proportions, each resampled to equally many features, beside ``generate()``."""

from __future__ import annotations

import pytest

from tests.compile.vision.answers import assert_equal_answers, compiled
from tests.models.any_vlm import tiny_model
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.vision.families import family_of
from tt_edge.compile.vision.padded.resampled import ResampledTower
from tt_edge.compile.vision.tower import tower_of
from tt_edge.config import CompileConfig
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.benchmark.vision import random_picture
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt

#: Prompts of more than 48 tokens are computed in pieces.
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=48, max_seq_len=160, max_image_tokens=50)
WIDE, TALL, SMALL = photo(60, 90), photo(57, 33, 1), photo(9, 20, 2)


@pytest.fixture(scope="module")
def idefics2(tmp_path_factory):
    with compiled("idefics2", tmp_path_factory.mktemp("idefics2"), LIMITS) as found:
        yield found


def test_answers(idefics2):
    """In quarters and whole; two side by side share what is between them, and text that follows at once is set apart."""
    llm, theirs, folder = idefics2
    asked = [
        ("<image>What is it?", [WIDE]),
        ("A <image> or <image>, <not this?", [TALL, SMALL]),
        ("<image><image>so", [SMALL, WIDE]),
        ("Hello.", []),
    ]
    assert_equal_answers(llm, theirs, asked)
    words = ImagePrompt.read(Bundle.open(folder / "out.ttedge")).placeholders
    assert words.boundary == words.start == words.end == "<fake_token_around_image>"


def test_verify(idefics2):
    *_, folder = idefics2
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
    assert report.passed, report.render()


def test_fewer_tokens_than_five_tiles_have(idefics2):
    """An image that does not fit in quarters is taken whole, and the prompt says so; benchmarks have random images."""
    llm, *_ = idefics2
    contract = llm.vision.encoder.session.contract
    _, images = llm.vision.processor.tokenize(llm.tokenizer, "<image>" * 3, [WIDE] * 3, add_special_tokens=True)
    assert [image.tokens for image in images] == [5, 5, 5]
    assert (
        images[0].note
        == "image given as pixels of 90 x 60 pixels is scaled to 5 image tokens to fit the compiled model; in full it has 25"
    )
    assert random_picture(contract, contract.tower.least_image_tokens).edges.tolist() == [[8, 8]]


def test_what_is_refused():
    model = tiny_model("idefics2")
    with pytest.raises(
        UnsupportedModelError, match="has patches of 7 pixels, of which the processor's longest_edge 60 is no multiple"
    ):
        ResampledTower(model, (60, 60))
    with pytest.raises(UnsupportedModelError, match="tiles have padding, which ViTAttentionPlugin does not leave out"):
        tower_of(model, family_of(model), ragged=True)
