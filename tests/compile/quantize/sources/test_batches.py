"""Calibration of encoder-decoders: both halves get what transformers would give them."""

from __future__ import annotations

import json
import wave
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from tests.compile.seq2seq.test_images_and_texts import IMAGE, florence2
from tests.models.speech import speech_model
from tests.models.tiny_seq2seq import save_seq2seq, tiny_page_reader, tiny_seq2seq
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.tokenizer_files import generation_settings
from tt_edge.compile.files import HostFiles
from tt_edge.compile.quantize import CalibrationData, calibrate, layers_to_quantize
from tt_edge.compile.quantize.sources.batches import SourceBatches
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import InvalidInputError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two pages, two recordings, and folders of each."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        for name in ("pages", "recordings"):
            (folder / name).mkdir(exist_ok=True)
        generator = np.random.default_rng(number)
        Image.fromarray(generator.integers(0, 255, (60, 90, 3), np.uint8)).save(folder / "pages" / f"{number}.png")
        samples = (8000 * np.sin(np.arange(11_200) * 0.05 * (number + 1)) + generator.normal(0, 500, 11_200)).astype(
            "<i2"
        )
        with wave.open(str(folder / "recordings" / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    return folder


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """The batches of a model, with its checkpoint's files."""

    def of(model, source, processor=None, **settings):
        folder = save_seq2seq(model, tmp_path_factory.mktemp("model"))
        if processor is not None:
            processor.save_pretrained(folder)
        files = HostFiles.of_folder(folder)
        files["generation_config.json"] = generation_settings(model)
        return SourceBatches.of(model, files, Checkpoint.open(folder), CalibrationData(source, **settings))

    return of


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_with_answers_and_without(load, tmp_path):
    """An answer of the data is taken as it is; the other one is the model's own, with the checkpoint's forced tokens."""
    model = tiny_seq2seq("bart")
    model.generation_config.forced_bos_token_id = 40
    source = write(
        tmp_path / "a.jsonl", {"prompt": "w4 w5 w90", "answer": "w7 w8 w9"}, {"text": "w33"}, {"text": "w5 " * 60}
    )
    one, other, long = load(model, source, max_length=20)
    assert one["input_ids"].tolist() == [[4, 5, 90, 2]]
    assert one["decoder_input_ids"].tolist() == [[2, 40, 7, 8, 9]]
    assert other["input_ids"].tolist() == [[33, 2]]
    own = model.generate(torch.tensor([[33, 2]]), max_new_tokens=19, do_sample=False, num_beams=1)
    assert other["decoder_input_ids"].tolist() == own.tolist()
    assert own[0, 1] == 40
    assert long["input_ids"].shape == (1, 20)
    assert len(load(model, source, samples=2)) == 2


def test_ranges_are_those_of_both_halves(load, tmp_path):
    model = tiny_seq2seq("t5")
    batches = load(model, write(tmp_path / "a.jsonl", {"prompt": "w4 w5 w90", "answer": "w7 w8 w9"}, {"text": "w33"}))
    recipe = QuantConfig("fp8")
    names = list(layers_to_quantize(model, recipe))
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}
    with input_ranges(model, names) as expected, torch.no_grad():
        for batch in batches:
            model(**batch)
    found = calibrate(model, recipe, batches, device="cpu")
    assert {name: float(each.input_amax) for name, each in found.items()} == pytest.approx(expected, rel=1e-5)


@contextmanager
def input_ranges(model, names):
    """The largest magnitude that each layer is given."""
    found = {}

    def keep(name):
        return lambda _, args: found.__setitem__(name, max(found.get(name, 0.0), float(args[0].abs().amax())))

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    yield found
    for handle in handles:
        handle.remove()


def test_pages(load, data):
    """A folder of them, as transformers' own processor prepares them, with the model's own answers."""
    model = tiny_page_reader("trocr")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    batches = load(model, data / "pages", processor)
    assert len(batches) == 2
    for number, batch in enumerate(batches):
        page = Image.open(data / "pages" / f"{number}.png")
        theirs = processor(page, return_tensors="pt").pixel_values
        assert float((batch["pixel_values"] - theirs).abs().max()) <= 2 / 127.5 + 1e-6
        own = model.generate(batch["pixel_values"], max_new_tokens=32, do_sample=False, num_beams=1)
        assert batch["decoder_input_ids"].tolist() == own.tolist()


def test_speech(load, data, tmp_path):
    """Features of transformers' extractor; the language is that of the data, or is detected."""
    model, extractor = speech_model(), transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    rows = {"audio": "0.wav"}, {"audio": "1.wav", "language": "german", "task": "translate", "answer": "w5 w6"}
    batches = load(model, write(data / "recordings" / "a.jsonl", *rows), extractor)
    (data / "recordings" / "a.jsonl").unlink()
    for number, batch in enumerate(batches):
        with wave.open(str(data / "recordings" / f"{number}.wav")) as file:
            samples = np.frombuffer(file.readframes(20_000), "<i2").astype(np.float32) / 32768
        theirs = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
        assert float((batch["input_features"] - theirs).abs().max()) < 1e-4
    detected = int(model.detect_language(batches[0]["input_features"])[0])
    assert batches[0]["decoder_input_ids"][0, :3].tolist() == [2, detected, 47]
    assert batches[1]["decoder_input_ids"].tolist() == [[2, 41, 45, 47, 5, 6]]
    assert len(load(model, data / "recordings", extractor)) == 2
    assert len(load(model, None, extractor, samples=3)[:2]) == 2  # generated


def test_an_image_and_a_text(load, data, tmp_path):
    model, processor = florence2()
    model.eval().config.decoder_start_token_id = 2
    rows = write(tmp_path / "a.jsonl", {"prompt": "w4 w5", "images": [str(data / "pages" / "0.png")], "answer": "w7"})
    (batch,) = load(model, rows, processor)
    places = int((batch["input_ids"] == IMAGE).sum())
    assert batch["input_ids"][0, places:].tolist() == [4, 5, 2]
    assert batch["pixel_values"].shape == (1, 3, 32, 48)
    assert set(layers_to_quantize(model, QuantConfig("int8_wo"))) == {
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "language_model" in name
    }


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (
            "t5",
            '{"text": "w4", "images": ["b.png"]}',
            r"a.jsonl:1: it has images, which T5For\w+ does not take; remove",
        ),
        ("t5", '{"audio": "b.wav"}', r"a.jsonl:1: it has audio, which T5For\w+ does not take; remove the line"),
        ("t5", '{"question": "?"}', r"a.jsonl:1: it has none of text, prompt, article, content \(it has question\)"),
        ("t5", '{"text": "w4", "answer": 3}', r"a.jsonl:1: answer is 3; give a string"),
        ("t5", '{"text": 3, "answer": "w4"}', r"a.jsonl:1: text is 3; give a string"),
        ("t5", "", r"a.jsonl is empty; give texts"),
        (
            "t5",
            '{"text": "w4", "messages": [{"content": [{"type": "video", "video": "a.mp4"}]}]}',
            r"a.jsonl:1: it has a video, which encoder-decoders do not take; remove it",
        ),
        (
            "trocr",
            '{"text": "w4"}',
            r"a.jsonl:1: the model reads one page, and there are 0 images; give one image file",
        ),
        ("trocr", '{"images": ["no.png"]}', r"no.png does not exist"),
        ("whisper", '{"text": "w4"}', r"a.jsonl:1: it has no audio, the file of a recording \(it has text\)"),
        ("whisper", '{"audio": "no.wav"}', r"a.jsonl:1: .*no.wav"),
        ("whisper", '{"audio": "0.wav", "language": "xx"}', r"a.jsonl:1: language 'xx' is unknown; choose one of de"),
    ],
)
def test_refused(load, data, kind, content, message):
    path = data / "recordings" / "a.jsonl"
    path.write_text(content)
    try:
        with pytest.raises(InvalidInputError, match=message) as caught:
            load(*_model_and_data(kind, path))
    finally:
        path.unlink()
    assert "\n" not in str(caught.value)


def test_a_text_without_tokens_is_refused(load, tmp_path, monkeypatch):
    """Of a tokenizer that adds no end."""
    monkeypatch.setattr(
        Checkpoint, "tokenizer", lambda _, *args, **more: {"input_ids": torch.zeros(1, 0)}, raising=False
    )
    with pytest.raises(
        InvalidInputError, match=r"a.jsonl:1: its text has no tokens; give some text or remove the line"
    ):
        load(tiny_seq2seq("t5"), write(tmp_path / "a.jsonl", {"prompt": "", "answer": "w7"}))


def _model_and_data(kind, path):
    if kind == "trocr":
        return tiny_page_reader(kind), path, transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    if kind == "whisper":
        return speech_model(), path, transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return tiny_seq2seq(kind), path


@pytest.mark.parametrize(
    ("kind", "folder", "message"),
    [
        ("t5", "pages", "is a folder of images, and T5ForConditionalGeneration is calibrated on texts; give those"),
        ("trocr", "recordings", "is a folder of recordings, and VisionEncoderDecoderModel is calibrated on pages"),
    ],
)
def test_folders_of_something_else(load, data, kind, folder, message):
    with pytest.raises(InvalidInputError, match=message):
        load(*_model_and_data(kind, data / folder))
