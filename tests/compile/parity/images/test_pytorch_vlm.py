"""PyTorch's side of the comparison of vision-language models."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from tests.models.any_vlm import small_image_processor, tiny_tokenizer, write_any
from tests.models.vlm_checkpoints import files_of
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity.images.features import compare_preprocessing
from tt_edge.compile.parity.images.pytorch_vlm import model_inputs, processor_inputs, processor_of
from tt_edge.compile.vision.processing.images import prepare_images
from tt_edge.config import Precision
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.text.tokenizer import BundleTokenizer


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


@pytest.mark.parametrize("name", ["gemma4", "gemma4_unified"])
def test_images_padded_to_one_size(tmp_path, name):
    """Gemma 4's processor pads patches; its images' tokens see each other, which the kinds of tokens say."""
    write_any(name, tmp_path)
    model = load_model(tmp_path, Precision.FP32)
    files = files_of(model, tmp_path)
    ours = MultimodalProcessor.from_files(files, prepare_images(model, str(tmp_path), files).geometry)
    tokenizer, photos = BundleTokenizer.from_bundle(files), [photo(60, 80), photo(57, 33)]
    found = compare_preprocessing(Checkpoint.open(tmp_path), model, ours, tokenizer, None, photos)
    assert found.passed, found
    ids, pictures = ours.tokenize(tokenizer, "<image> or <image>?", photos, add_special_tokens=True)
    theirs = processor_inputs(processor_of(tmp_path), "<image> or <image>?", photos)
    assert torch.equal(model_inputs(model, [ids], pictures)["mm_token_type_ids"], theirs["mm_token_type_ids"].int())
    long = dataclasses.replace(ours.image_processor, positions=40)  # transformers' own table ends in an IndexError
    long.tokens_of((60, 80))
    with pytest.raises(
        InvalidInputError, match="400 x 1 pixels is too elongated for this model, which has positions for"
    ):
        long.tokens_of((1, 400))


def test_tiles_of_perception_lm(tmp_path):
    """The model takes the tiles of each image apart, as many as another has."""
    pytest.importorskip("timm")
    write_any("perception_lm", tmp_path)
    model = load_model(tmp_path, Precision.FP32)
    files = files_of(model, tmp_path)
    ours = MultimodalProcessor.from_files(files, prepare_images(model, str(tmp_path), files).geometry)
    ids, pictures = ours.tokenize(
        BundleTokenizer.from_bundle(files), "<image>what?", [photo(60, 80)], add_special_tokens=True
    )
    theirs = processor_inputs(processor_of(tmp_path), "<image>what?", [photo(60, 80)])
    with torch.no_grad():
        got, want = (model(**inputs).logits for inputs in (model_inputs(model, [ids], pictures), theirs))
    assert (got - want).norm() < 1e-2 * want.norm()  # pixels are one step of 255 apart
    tokenizer, photos = BundleTokenizer.from_bundle(files), [photo(60, 80), photo(20, 300)]  # of other tiles
    found = compare_preprocessing(Checkpoint.open(tmp_path), model, ours, tokenizer, None, photos)
    assert (found.passed, found.pictures) == (True, 1)
