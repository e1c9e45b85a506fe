"""Models whose processors put an image before the text: to answers equal to ``generate()`` with the checkpoint's own processor.

InstructBLIP's vision network reads the text of the prompt with the image. Kosmos-2 and 2.5 know their image tokens by their places.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers import Kosmos2_5Processor

from tests.models.any_vlm import write_any
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.parity.images.features import features_of
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM, model_inputs
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.quantize.calibrate import calibrate
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.config.quantization import QuantConfig, QuantFormat
from tt_edge.contract import IMAGE_FEATURES
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime import LLM
from tt_edge.runtime.benchmark.vision import random_picture

NEW = 6
#: Prompts of more than 80 tokens are computed in pieces.
LIMITS = CompileConfig.of(precision="fp32", max_batch=2, max_input_len=80, max_seq_len=160, max_image_tokens=64)
GREEDY = GenerationConfig(max_new_tokens=NEW, ignore_eos=True)


@pytest.fixture(scope="module", params=["instructblip", "kosmos-2", "kosmos-2.5"])
def both(request, tmp_path_factory):
    """The compiled model, the one in PyTorch, and the folder of bundle and checkpoint. Kosmos-2.5's processor makes 4,096 patches
    of each image, whatever its settings are, and here 20."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Kosmos2_5Processor, "images_kwargs", Kosmos2_5Processor.images_kwargs | {"max_patches": 20})
        write_any(request.param, folder / "checkpoint")
        compile_checkpoint(str(folder / "checkpoint"), folder / "out.ttedge", LIMITS, EngineTarget())
        with LLM.load(folder / "out.ttedge", "reference") as llm:
            yield request.param, llm, PyTorchVLM(folder / "checkpoint", Precision.FP32), folder


def check(theirs, llm, prompt, image, completion):
    inputs = theirs.inputs(llm, prompt, [image])
    assert list(completion.input_ids) == inputs["input_ids"][0].tolist()
    assert list(completion.new_token_ids) == theirs.continue_greedily(inputs, NEW, eos_token_id=None)


def test_questions_about_an_image(both):
    """Two about the same image at once, of which the network reads the texts; then one of them again."""
    name, llm, theirs, _ = both
    wide, tall = Image.fromarray(photo(60, 80)), Image.fromarray(photo(57, 33, 1))
    asked = [("What is this?", wide), ("Who is it, and why?", wide), (" the end ", tall)]
    completions = llm.generate([prompt for prompt, _ in asked], GREEDY, images=[[image] for _, image in asked])
    for (prompt, image), completion in zip(asked, completions, strict=True):
        check(theirs, llm, prompt, image, completion)
    assert llm.vision.encoder.cached_images == (3 if name == "instructblip" else 2)
    before = llm.vision.encoder.cache.stats.hits
    [again] = llm.generate(["What is this?"], GREEDY, images=[[wide]])
    check(theirs, llm, "What is this?", wide, again)
    assert llm.vision.encoder.cache.stats.hits == before + 1


def test_images_of_several_prompts(both):
    """What PyTorch is given to calibrate with: instructions of unequal lengths are padded and masked, places are marked."""
    name, llm, theirs, _ = both
    made = [
        llm.vision.processor.tokenize(llm.tokenizer, text, [photo(40, 40, number)], add_special_tokens=True)
        for number, text in enumerate(("What is this? ", "Who??", "A longer question"))
    ]
    images = [image for _, [image] in made]
    apart = [features_of(theirs.model, [image])[IMAGE_FEATURES] for image in images]
    np.testing.assert_allclose(features_of(theirs.model, images)[IMAGE_FEATURES], np.concatenate(apart), atol=1e-5)
    if name != "instructblip":
        ids = made[0][0]
        inputs = model_inputs(theirs.model, [ids, ids], images[:2])
        want = theirs.inputs(llm, "What is this? ", [photo(40, 40)])["image_embeds_position_mask"][0]
        assert all(mask.tolist() == want.tolist() for mask in inputs["image_embeds_position_mask"])


def test_an_image_of_random_pixels(both):
    """What benchmarks compute with, as the model's own code has it."""
    _, llm, theirs, _ = both
    contract = llm.vision.encoder.session.contract
    image = random_picture(contract, contract.tower.least_image_tokens)
    got = llm.vision.encoder.encode([image])[IMAGE_FEATURES]
    np.testing.assert_allclose(got, features_of(theirs.model, [image])[IMAGE_FEATURES], atol=1e-4)


def test_its_tower_is_calibrated(both):
    """An image runs through it, whatever the model calls its pixels."""
    _, llm, theirs, _ = both
    ids, images = llm.vision.processor.tokenize(llm.tokenizer, "What?", [photo(40, 40)], add_special_tokens=True)
    recipe = QuantConfig(None, vision=QuantFormat.INT8_SQ)
    found = calibrate(theirs.model, recipe, [model_inputs(theirs.model, [ids], images)], device="cpu")
    assert found
    assert all(each.input_amax is not None for each in found.values())


def test_verify(both):
    *_, folder = both
    report = verify_bundle(Bundle.open(folder / "out.ttedge"), folder / "checkpoint", new_tokens=3)
    assert report.passed, report.render()
    assert all(row.pictures for row in report.rows)


def test_errors_name_the_next_step(both):
    name, llm, *_ = both
    image = photo(30, 30)
    with pytest.raises(InvalidInputError, match="takes one image a prompt, and there are 2; give one"):
        llm.generate(["what?"], GREEDY, images=[[image, image]])
    if name != "instructblip":
        with pytest.raises(InvalidInputError, match="answers to an image, and the prompt has none; give an image"):
            llm.generate(["what?"], GREEDY)
