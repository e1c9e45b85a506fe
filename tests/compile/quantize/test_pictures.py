"""Calibration on images: every family gets the inputs that transformers' own processor would make."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer

from tests.models.vlm_checkpoints import PLACEHOLDERS, QWEN, TOKENS, files_of, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.parity.images.pytorch_vlm import PyTorchVLM
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.quantize import STATISTICS_FILE, CalibrationData, calibrate, from_bytes, load_batches
from tt_edge.compile.quantize.kv_cache import calibrate_kv_cache
from tt_edge.compile.quantize.pictures import CalibrationPictures
from tt_edge.compile.vision.families import family_of
from tt_edge.config import CompileConfig, EngineTarget, Precision
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import InvalidInputError
from tt_edge.runtime import LLM

LIMITS = {"max_batch": 2, "max_input_len": 96, "max_seq_len": 160, "max_image_tokens": 64}


@pytest.fixture(scope="module", params=TOKENS)
def checkpoint(request, tmp_path_factory):
    return request.param, write_checkpoint(request.param, tmp_path_factory.mktemp(request.param) / "checkpoint")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with four images."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(4):
        Image.fromarray(photo(56, 56, index)).save(folder / f"{index}.png")
    return folder


def write_samples(family, folder):
    """A JSONL file, and its samples as text and images."""
    place = "" if family == "blip-2" else PLACEHOLDERS.get(family, "<image-1>")
    both = "" if family == "blip-2" else f"{place} {PLACEHOLDERS.get(family, '<image-2>')} which?"
    rows = [(f"{place} what is it?\na car", [0]), (f"{place} where is it?\nahead", [1]), ("no picture", [])]
    rows += [(f"{both}\nboth", [2, 3])] if both else []
    lines = [{"prompt": t.split("\n")[0], "answer": t.split("\n")[1]} if "\n" in t else {"text": t} for t, _ in rows]
    lines = [line | {"images": [f"{i}.png" for i in found]} for line, (_, found) in zip(lines, rows, strict=True)]
    path = folder / f"{family}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, [(text, [str(folder / f"{i}.png") for i in found]) for text, found in rows]


@contextmanager
def input_ranges(model):
    """The largest magnitude that each linear layer of the language part is given."""
    found = {}

    def keep(name):
        def hook(_module, args):
            found[name] = max(found.get(name, 0.0), float(args[0].abs().amax()))

        return hook

    part = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and "language_model" in n]
    handles = [module.register_forward_pre_hook(keep(name)) for name, module in part]
    yield found
    for handle in handles:
        handle.remove()


def test_ranges_are_those_of_transformers(checkpoint, data, tmp_path):
    family, folder = checkpoint
    path, samples = write_samples(family, data)
    config = CompileConfig.of(precision="fp32", quant=QuantConfig("fp8"), **LIMITS)
    calibration = CalibrationData(path)
    compile_checkpoint(str(folder), tmp_path / "out.ttedge", config, EngineTarget(), calibration=calibration)
    statistics = from_bytes(Bundle.open(tmp_path / "out.ttedge").read_bytes(STATISTICS_FILE))
    theirs = PyTorchVLM(folder, Precision.FP32)
    with LLM.load(tmp_path / "out.ttedge", "reference") as llm, input_ranges(theirs.model) as expected, torch.no_grad():
        for text, images in samples:
            inputs = theirs.inputs(llm, text, images)
            if images:
                theirs.model(**inputs, use_cache=False)
            else:  # transformers' BLIP-2 does not run without an image
                family_of(theirs.model).decoder_of(theirs.model)(input_ids=inputs["input_ids"], use_cache=False)
    assert statistics.keys() == expected.keys() - {name for name in expected if name.endswith("lm_head")}
    for name, found in statistics.items():
        # Pixels differ in their last bit or, where resizing rounds otherwise, by a step of 255.
        assert float(found.input_amax) == pytest.approx(expected[name], rel=2e-2), name


def test_pictures_count(checkpoint, data, tmp_path):
    """Ranges of only text differ, so the images were used."""
    family, folder = checkpoint
    path, _ = write_samples(family, data)
    (data / "text.txt").write_text("no picture")
    found = []
    for source in (path, data / "text.txt"):
        model = load_model(folder, Precision.FP32)
        pictures = CalibrationPictures.of(model, files_of(model, folder))
        batches = load_batches(CalibrationData(source), AutoTokenizer.from_pretrained(folder), pictures)
        found.append(calibrate(model, QuantConfig("fp8"), batches, device="cpu"))
    assert any(
        abs(float(a.input_amax / b.input_amax) - 1) > 0.05 for a, b in zip(*map(dict.values, found), strict=True)
    )


def test_the_built_in_set_has_pictures(checkpoint):
    """One for each passage, the same every time; of families with tiles, one tile each."""
    family, folder = checkpoint
    model = load_model(folder, Precision.FP32)
    pictures = CalibrationPictures.of(model, files_of(model, folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    one, two = (load_batches(CalibrationData(samples=6, max_length=8), tokenizer, pictures) for _ in range(2))
    with_pictures = [batch for batch in one if "pixel_values" in batch]
    assert sum(len(batch["input_ids"]) for batch in with_pictures) == 3
    assert sum(len(batch["input_ids"]) for batch in one) == 6
    if family not in QWEN:
        assert all(len(b["pixel_values"]) == len(b["input_ids"]) for b in with_pictures)
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert calibrate(model, QuantConfig("fp8"), one, device="cpu")


def test_an_fp8_cache_is_calibrated_on_pictures(data):
    """Keys and values of the decoder, and not those of the tower."""
    folder = write_checkpoint("qwen2_5_vl", data / "checkpoint")
    path, _ = write_samples("qwen2_5_vl", data)
    model = load_model(folder, Precision.FP32)
    pictures = CalibrationPictures.of(model, files_of(model, folder))
    batches = load_batches(CalibrationData(path), AutoTokenizer.from_pretrained(folder), pictures)
    assert any("pixel_values" in batch for batch in batches)
    scales = calibrate_kv_cache(model, batches)
    assert len(scales) == 2
    narrower = calibrate_kv_cache(model, [batch for batch in batches if "pixel_values" not in batch])
    assert any(a > b for row, other in zip(scales, narrower, strict=True) for a, b in zip(row, other, strict=True))


def test_what_is_refused(data, tmp_path):
    """The line is named, and no bundle is left."""
    folder = write_checkpoint("qwen2_vl", tmp_path / "checkpoint")
    config = CompileConfig.of(quant=QuantConfig("fp8"), **LIMITS)
    place = PLACEHOLDERS["qwen2_vl"]
    bad = {
        "b.jsonl:1: image .*missing.png does not exist": {"text": place, "images": ["missing.png"]},
        "b.jsonl:1: the prompt has 0 placeholders": {"text": "no place", "images": ["0.png"]},
        "b.jsonl:1 has a video of 2 frames, and a model is calibrated on images only": {
            "messages": [{"role": "user", "content": [{"type": "video", "video": [str(data / "0.png")] * 2}]}]
        },
        "b.jsonl:1 has a video film.mp4, and a model is calibrated on images only": {
            "messages": [{"role": "user", "content": [{"type": "video", "video": "film.mp4"}]}]
        },
    }
    for message, line in bad.items():
        (data / "b.jsonl").write_text(json.dumps(line))
        with pytest.raises(InvalidInputError, match=message):
            compile_checkpoint(
                str(folder),
                tmp_path / "out.ttedge",
                config,
                EngineTarget(),
                calibration=CalibrationData(data / "b.jsonl"),
            )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
