"""An image and a text: Florence-2, BLIP-2 and InstructBLIP with T5 answer as their ``generate()`` does."""

from __future__ import annotations

import json
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.florence2 import processing_florence2

from tests.compile.seq2seq.seq2seqs import compiled, texts
from tests.compile.seq2seq.test_pages import page
from tests.models.any_vlm import bert_tokenizer
from tests.models.tiny_seq2seq import _BART, _T5, VOCABULARY, save_seq2seq
from tt_edge.cli import main
from tt_edge.compile.files import HostFiles
from tt_edge.errors import CapacityError, InvalidInputError
from tt_edge.generation_config import GenerationConfig
from tt_edge.runtime.engine.feed_forward import ReferenceFeedForward
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.llm import LLM
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.runtime.seq2seq.image_text import _TASKS, ImageTextProcessor
from tt_edge.runtime.seq2seq.pipeline import SourcePipeline
from tt_edge.runtime.seq2seq.prompt import DecoderStart
from tt_edge.runtime.text.tokenizer import BundleTokenizer

#: The token that stands for a place of the image.
IMAGE = 98
SIZE = {"height": 32, "width": 48}


def florence2():
    vision = {
        "depths": [1, 1], "embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3],
        "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 32,
    }  # fmt: skip
    text = transformers.BartConfig(vocab_size=VOCABULARY, **_BART)
    config = transformers.Florence2Config(
        vision_config=vision, text_config=text.to_dict(), image_token_id=IMAGE, **_BART
    )
    return transformers.Florence2ForConditionalGeneration(config), transformers.CLIPImageProcessor(
        size=SIZE, crop_size=SIZE, do_center_crop=False
    )


def blip2():
    small = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3
    }  # fmt: skip
    text = transformers.T5Config(vocab_size=VOCABULARY, **_T5)
    config = transformers.Blip2Config(
        vision_config={**small, "image_size": 32, "patch_size": 8}, qformer_config={**small, "encoder_hidden_size": 16},
        text_config=text.to_dict(), num_query_tokens=4, image_token_index=IMAGE, initializer_range=0.3,
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    return transformers.Blip2ForConditionalGeneration(config), transformers.BlipImageProcessor(size=size)


def instructblip():
    """With T5. Its Q-Former reads the text, in the tokens of ``bert_tokenizer``."""
    small = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3
    }  # fmt: skip
    text = transformers.T5Config(vocab_size=VOCABULARY, **_T5)
    reader = {**small, "encoder_hidden_size": 16, "vocab_size": 60, "max_position_embeddings": 40}
    config = transformers.InstructBlipConfig(
        vision_config={**small, "image_size": 32, "patch_size": 8}, qformer_config=reader, text_config=text.to_dict(),
        num_query_tokens=4, image_token_index=IMAGE, initializer_range=0.3,
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    return transformers.InstructBlipForConditionalGeneration(config), transformers.BlipImageProcessor(size=size)


MODELS = {"florence2": florence2, "blip-2": blip2}


@pytest.fixture(scope="module")
def case():
    """BLIP-2, its image processor, and both networks. Florence-2 is compiled, verified and asked from a checkpoint."""
    torch.manual_seed(0)
    model, processor = blip2()
    model.eval().language_model.generation_config.eos_token_id = None
    size = (processor.size["height"], processor.size["width"])
    return model, processor, compiled(model, image_size=size)


def test_as_generate(case):
    """From images and texts of unequal lengths to tokens, in one batch; and each image matters."""
    model, processor, (encoder, decoder) = case
    network = ReferenceFeedForward(encoder.network, encoder.contract)
    pipeline = SourcePipeline(network, DecoderStart(0))
    places = pipeline.image_places
    size = (processor.size["height"], processor.size["width"])
    pipeline.pages = ImageTextProcessor.from_settings(processor.to_dict(), model.config.to_dict(), size, places)
    images = [page(48, 90), page(120, 70), page(48, 90)]
    questions = texts(9, 5, 9)
    sources, wanted = [], []
    search = {"max_new_tokens": 16, "no_repeat_ngram_size": 2}
    for image, ids in zip(images, questions, strict=True):
        given = processor(image, return_tensors="pt")["pixel_values"]
        made = pipeline.pages.pixels(image)
        np.testing.assert_allclose(made, given[0].numpy(), atol=0.02)
        sources.append(pipeline.image_text(made, ids.tolist()))
        tokens = torch.tensor([[*[IMAGE] * places, *ids]])
        out = model.generate(
            pixel_values=given,
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            num_beams=1,
            **search,
        )
        wanted.append(out[0, 1:].tolist())
    session = ReferenceSession(decoder.network, decoder.contract)
    found = generate(session, [[0]] * 3, GenerationConfig(**search), sources=sources)
    assert [each.new_token_ids for each in found] == wanted
    assert len({source.digest for source in sources}) == 3


def test_a_chat(case, tmp_path):
    """One message with an image and a text, as the server takes it."""
    model, processor, (encoder, decoder) = case
    words(("<s>", 0), ("</s>", 2)).save_pretrained(tmp_path)
    tokenizer, size = BundleTokenizer.from_bundle(HostFiles.of_folder(tmp_path)), (32, 32)
    pages = ImageTextProcessor.from_settings(processor.to_dict(), model.config.to_dict(), size, 4)
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(0), pages=pages)
    given = processor(page(48, 90), return_tensors="pt")["pixel_values"]
    tokens = torch.tensor([[*[IMAGE] * 4, 0, 30, 31, 2]])
    search = {"max_new_tokens": 10, "no_repeat_ngram_size": 2}
    out = model.generate(
        pixel_values=given, input_ids=tokens, attention_mask=torch.ones_like(tokens), do_sample=False, **search
    )
    with LLM(ReferenceSession(decoder.network, decoder.contract), tokenizer, source=pipeline) as llm:
        parts = [{"type": "image", "image": page(48, 90)}, {"type": "text", "text": "w30 w31"}]
        answer = llm.chat([{"role": "user", "content": parts}], llm.config(**search, eos_token_ids=()))
        assert answer.new_token_ids == out[0, 1:].tolist()
        with pytest.raises(InvalidInputError, match=r"there are 0 images"):
            llm.chat([{"role": "user", "content": "w30"}])
        parts[1] = {"type": "text", "text": f"w30 w{IMAGE}"}
        with pytest.raises(InvalidInputError, match=rf"the text has the image token \({IMAGE}\); remove it"):
            llm.chat([{"role": "user", "content": parts}])


def test_what_is_refused(case):
    _, processor, (encoder, _) = case
    pipeline = SourcePipeline(ReferenceFeedForward(encoder.network, encoder.contract), DecoderStart(2))
    pixels = np.zeros((3, processor.size["height"], processor.size["width"]), np.float32)
    with pytest.raises(CapacityError, match=r"places and the text 48 tokens, more than the 48"):
        pipeline.image_text(pixels, [5] * 48)
    with pytest.raises(InvalidInputError, match=r"there is a text; give an image"):
        pipeline.text([5])
    with pytest.raises(InvalidInputError, match=r"the image has shape \(3, 8, 8\)"):
        pipeline.image_text(pixels[:, :8, :8], [5])
    with pytest.raises(InvalidInputError, match=r"has numbers that are not finite"):
        pipeline.image_text(pixels + np.float32("nan"), [5])


def test_from_a_checkpoint_to_an_answer(tmp_path, capsys):
    """Compiled, verified and asked on the command line: a task of Florence-2's becomes its question."""
    from PIL import Image

    torch.manual_seed(0)
    model, processor = florence2()
    model.eval().generation_config.eos_token_id = 2
    model.generation_config.forced_eos_token_id = None
    folder, bundle, file = save_seq2seq(model, tmp_path / "checkpoint"), tmp_path / "f.ttedge", tmp_path / "page.png"
    processor.save_pretrained(folder)
    Image.fromarray(page(48, 90)).save(file)
    options = ["--precision", "fp32", "--max-batch", "2", "--max-seq-len", "40"]
    assert main(["compile", str(folder), "-o", str(bundle), *options]) == 0
    assert main(["verify", str(bundle), "--model", str(folder), "--new-tokens", "10"]) == 0
    capsys.readouterr()
    arguments = ["--image", str(file), "--max-new-tokens", "12", "--json"]
    assert main(["run", str(bundle), *arguments, "--prompt", "w30 w31"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    pixels = processor(page(48, 90), return_tensors="pt")["pixel_values"]
    tokens = torch.tensor([[*[IMAGE] * 25, 30, 31, 2]])
    out = model.generate(
        pixel_values=pixels,
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=12,
        do_sample=False,
        num_beams=1,
    )
    assert answer["new_token_ids"] == out[0, 1:].tolist()[: len(answer["new_token_ids"])]
    for prompt, message in (
        ("<CAPTION> w3", "the task <CAPTION> takes no text beside it"),
        (" ".join(["w3"] * 90), "the image has 25 places and the text 91 tokens, more than the 96"),
    ):
        assert main(["run", str(bundle), *arguments, "--prompt", prompt])
        assert message in capsys.readouterr().err
    assert main(["run", str(bundle), "--prompt", "w3"])
    assert "there are 0 images" in capsys.readouterr().err


def test_an_image_whose_features_depend_on_the_text(tmp_path, capsys):
    """InstructBLIP with T5, with the checkpoint's own processor: compiled, verified, and asked on the command line."""
    from PIL import Image

    torch.manual_seed(0)
    model, images = instructblip()
    model.eval().generation_config.eos_token_id = 2
    folder, bundle, file = save_seq2seq(model, tmp_path / "checkpoint"), tmp_path / "i.ttedge", tmp_path / "page.png"
    tokenizer = words(("<s>", 0), ("</s>", 2), ("<image>", IMAGE))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    processor = transformers.InstructBlipProcessor(images, tokenizer, bert_tokenizer(), num_query_tokens=4)
    processor.save_pretrained(folder)
    Image.fromarray(page(48, 90)).save(file)
    options = ["--precision", "fp32", "--max-batch", "2", "--max-seq-len", "40"]
    assert main(["compile", str(folder), "-o", str(bundle), *options]) == 0
    assert main(["verify", str(bundle), "--model", str(folder), "--new-tokens", "10"]) == 0
    capsys.readouterr()
    found = []
    for question in ("w30 w31", "w30 w31 w32"):
        asked = ["--image", str(file), "--max-new-tokens", "12", "--json", "--prompt", question]
        assert main(["run", str(bundle), *asked]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        inputs = processor(images=Image.open(file), text=question, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=12, do_sample=False, num_beams=1)
        found.append(answer["new_token_ids"])
        assert found[-1] == out[0, 1:].tolist()[: len(found[-1])]
    assert found[0] != found[1]
    assert main(["run", str(bundle), "--image", str(file), "--prompt", "w30 " * 41])
    own = [" ".join(f"w{token}" for token in tokens if token != 2) for tokens in found]
    lines = [{"images": ["page.png"], "prompt": "w30 w31", "answer": answer} for answer in own]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    capsys.readouterr()
    asked = ["--data", str(tmp_path / "q.jsonl"), "--model", str(folder), "--max-new-tokens", "12", "--json"]
    assert main(["eval", str(bundle), *asked]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["network"]["exact"] == row["pytorch"]["exact"] == 0.5
    # Pixels are within 2 of 255.
    assert row["network"]["perplexity"] == pytest.approx(row["pytorch"]["perplexity"], rel=0.02)
    assert "character_error_rate" not in row["network"]  # an answer is no transcript
    assert main(["run", str(bundle), "--image", str(file), "--prompt", "w30 " * 41])
    assert "tokens of the tokenizer that is for its image, which takes 40; shorten the text" in capsys.readouterr().err


def words(*special: tuple[str, int]) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of words that begins and ends each text, as BART's does."""
    ids = {f"w{i}": i for i in range(VOCABULARY)}
    for name, i in special:
        del ids[f"w{i}"]
        ids[name] = i
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="w97"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def their_processor(kind: str, images: object) -> transformers.ProcessorMixin:
    ends = (("<s>", 0), ("</s>", 2))
    if kind == "blip-2":
        return transformers.Blip2Processor(images, words(*ends), num_query_tokens=4)
    tokenizer = words(*ends, ("<image>", IMAGE))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.image_token, tokenizer.image_token_id, images.image_seq_length = "<image>", IMAGE, 25
    with patch.object(processing_florence2, "Florence2PostProcessor"):  # of boxes, which are left to the caller
        return transformers.Florence2Processor(images, tokenizer)


@pytest.mark.parametrize("kind", MODELS)
def test_as_their_own_processors(kind):
    """Pixels, and the tokens after the image's, of a text and of each task."""
    _, images = MODELS[kind]()
    theirs, size = their_processor(kind, images), (images.size["height"], images.size["width"])
    ours = ImageTextProcessor.from_settings(images.to_dict(), {"model_type": kind}, size, 25)
    tasks = [f"{task} w3 w4" if "{input}" in asked else task for task, asked in _TASKS.items()]
    for prompt in ["w30 w31", *(tasks if kind == "florence2" else ())]:
        made = theirs(images=page(48, 90), text=prompt, return_tensors="np")
        places = 25 if kind == "florence2" else 4
        ids = theirs.tokenizer(ours.text(prompt)).input_ids
        assert made["input_ids"][0, places:].tolist() == ids
        assert len(set(made["input_ids"][0, :places].tolist())) == 1
        np.testing.assert_allclose(ours.pixels(page(48, 90)), made["pixel_values"][0], atol=0.02)
