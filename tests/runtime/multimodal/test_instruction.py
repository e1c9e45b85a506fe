"""The text of a prompt that is read with its image."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tt_edge.compile.files import HostFiles
from tt_edge.contract import INSTRUCTION_IDS, TILES, VisionGeometry
from tt_edge.errors import BundleError, InvalidInputError
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.tiled.square import SquareProcessor
from tt_edge.runtime.multimodal.instruction import InstructionReader
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.vision_inputs import unpadded_inputs
from tt_edge.runtime.text.tokenizer import BundleTokenizer

WORDS = {word: i for i, word in enumerate(("[CLS]", "[SEP]", "[UNK]", "what", "is", "this", "who"))}
GEOMETRY = VisionGeometry("instructblip", TILES, 2, tile_size=(4, 4), max_instruction=5)


@pytest.fixture(scope="module")
def files():
    """A tokenizer of words, for prompts and in a folder for instructions, with a token before and behind a text there."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = tokenizer.to_str().encode()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return HostFiles({"tokenizer.json": plain, "reader/tokenizer.json": tokenizer.to_str().encode()})


@pytest.fixture(scope="module")
def processor(files):
    square = SquareProcessor(Placeholders("[UNK]", leading=True), 2, (4, 4))
    return MultimodalProcessor(square, (2,), instruction=InstructionReader.from_files(files, "reader", 5))


def asked(processor, files, prompt, image, special=True):
    tokenizer = BundleTokenizer.from_bundle(files)
    ids, [found] = processor.tokenize(tokenizer, prompt, [image], add_special_tokens=special)
    return ids, found


def test_an_image_is_read_with_the_text_of_its_prompt(processor, files):
    image = np.full((6, 8, 3), 7, np.uint8)
    ids, what = asked(processor, files, "what is this", image)
    _, who = asked(processor, files, "who is this", image)
    _, again = asked(processor, files, "what is this", image)
    assert ids == [2, 2, 3, 4, 5]
    assert (what.instruction, who.instruction) == ((0, 3, 4, 5, 1), (0, 6, 4, 5, 1))
    assert what.digest == again.digest != who.digest, "the key of its features, and of its tokens in the KV cache"
    assert asked(processor, files, "what", image, special=False)[1].instruction == (3,)


def test_the_ids_are_an_input_of_the_network_for_each_tile(processor, files):
    _, image = asked(processor, files, "what", np.zeros((4, 4, 3), np.uint8))
    two = dataclasses.replace(image, pixels=np.repeat(image.pixels, 2, axis=0), tokens=4)
    inputs, rows = unpadded_inputs(GEOMETRY, [two, image])
    assert inputs[INSTRUCTION_IDS].tolist() == [[0, 3, 1]] * 3
    assert rows.tolist() == list(range(6))
    other = dataclasses.replace(image, instruction=(0, 1))
    with pytest.raises(InvalidInputError, match=r"instructions of \[2, 3\] tokens; give those of one prompt"):
        unpadded_inputs(GEOMETRY, [image, other])


def test_an_image_that_nothing_is_asked_of(processor):
    """It is preprocessed in another process, which has no tokenizer."""
    sent = pickle.loads(pickle.dumps(processor))
    assert sent.instruction.tokenizer is None
    found = sent.preprocess(np.zeros((4, 4, 3), np.uint8))
    assert isinstance(found, ProcessedImage)
    assert found.instruction == (0, 1)


def test_texts_that_cannot_be_read(processor, files):
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(
        InvalidInputError, match="6 tokens of the tokenizer that is for its image, which takes 5; shorten"
    ):
        asked(processor, files, "what is this what", image)
    with pytest.raises(
        InvalidInputError, match="reads the text of a prompt with its image, and there is none; ask something"
    ):
        asked(processor, files, "", image, special=False)


def test_a_bundle_without_its_tokenizer(files):
    with pytest.raises(BundleError, match=r"no tokenizer\.json"):
        InstructionReader.from_files(files, "missing", 5)
