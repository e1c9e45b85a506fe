"""``--quant-vision``: the tower's blocks, quantized beside the language part or without it, calibrated on images."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from tests.models.tiny_models import tiny_model
from tests.models.tiny_vlms import tiny_vlm
from tests.models.vlm_checkpoints import TOKENS, files_of, write_checkpoint
from tests.runtime.multimodal.images.sample_images import photo
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import VISION
from tt_edge.cli import main
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_checkpoint, compile_model
from tt_edge.compile.quantize import CalibrationData, calibrate, load_batches
from tt_edge.compile.quantize.layers import placed_layers, quantize_model
from tt_edge.compile.quantize.pictures import CalibrationPictures
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.config.quantization import LayerPlace, QuantConfig
from tt_edge.errors import InvalidInputError

LIMITS = {"max_batch": 1, "max_input_len": 96, "max_seq_len": 128, "max_image_tokens": 64}


def places(model) -> dict[LayerPlace, list[str]]:
    found: dict[LayerPlace, list[str]] = {place: [] for place in LayerPlace}
    for name, _, place in placed_layers(model):
        found[place].append(name)
    return found


@pytest.mark.parametrize("family", TOKENS)
def test_every_family_has_blocks_that_calibration_reaches(family, tmp_path):
    folder = write_checkpoint(family, tmp_path)
    model = tiny_vlm(family)
    found = places(model)
    assert found[LayerPlace.TOWER]
    assert found[LayerPlace.PROJECTOR]
    assert not [name for name in found[LayerPlace.PROJECTOR] if "blocks." in name or ".encoder.layers." in name]
    pictures = CalibrationPictures.of(model, files_of(model, folder))
    batches = load_batches(CalibrationData(samples=2), AutoTokenizer.from_pretrained(folder), pictures)
    recipe = QuantConfig("int8_wo", vision="fp8")
    statistics = calibrate(model, recipe, batches, device="cpu")
    assert list(statistics) == found[LayerPlace.TOWER]
    assert all(each.input_amax > 0 for each in statistics.values())
    quantized = quantize_model(model, recipe, statistics)
    assert {str(quantized[name]) for name in found[LayerPlace.TOWER]} == {"fp8"}
    assert {str(quantized[name]) for name in found[LayerPlace.LANGUAGE]} == {"int8_wo"}
    assert not quantized.keys() & {*found[LayerPlace.PROJECTOR], *found[LayerPlace.HEAD]}


@pytest.mark.parametrize(
    ("family", "precision", "language", "vision", "engine"),
    [("internvl", "fp32", None, "int8_sq", ()), ("qwen3_vl", "fp16", "fp8", "fp8", ("sm89",))],
)
def test_compiled_and_verified(family, precision, language, vision, engine, tmp_path):
    """Against transformers' model, quantized in PyTorch from the same statistics: features, logits and tokens."""
    folder, output = write_checkpoint(family, tmp_path / "checkpoint"), tmp_path / "out.ttedge"
    config = CompileConfig.of(precision=precision, quant=QuantConfig(language, vision=vision), **LIMITS)
    compile_checkpoint(str(folder), output, config, EngineTarget(engine), progress=False)
    bundle = Bundle.open(output)
    tower = len(places(tiny_vlm(family))[LayerPlace.TOWER])
    kinds = [layer.kind for layer in bundle.network(VISION).layers]
    assert tower < kinds.count("DEQUANTIZE") <= 2 * tower, "each weight, and each input, which some layers share"
    decoder = [layer.kind for layer in bundle.network("decoder").layers]
    assert ("DEQUANTIZE" in decoder) == (language is not None)
    assert len(bundle.manifest.engines_of(VISION)) == len(engine)
    found = verify_bundle(bundle, folder, new_tokens=4)
    assert found.passed, found.render()


def test_without_the_option_the_tower_keeps_its_precision():
    model = tiny_vlm("qwen2_5_vl")
    quantize_model(model, QuantConfig("int8_wo", (("*visual*", "int8_wo"),)), {})
    assert not [n for n, m in model.named_modules() if isinstance(m, QuantizedLinear) and "visual" in n]


def test_rules_come_first_and_may_name_the_projector():
    model = tiny_vlm("qwen2_5_vl")
    recipe = QuantConfig(
        None, (("*.blocks.0.*", "none"), ("*merger*", "int8_wo"), ("*visual*", "int8_wo")), vision="fp8"
    )
    quantized = quantize_model(model, recipe, {})
    assert any("merger" in name for name in quantized)
    assert not any(".blocks.0." in name for name in quantized)
    assert any(".blocks.1." in name for name in quantized)
    assert not any("language_model" in name for name in quantized)


def test_a_folder_of_images_calibrates(tmp_path):
    folder = write_checkpoint("qwen2_vl", tmp_path / "checkpoint")
    (tmp_path / "images").mkdir()
    for index in range(3):
        Image.fromarray(photo(56, 84, index)).save(tmp_path / "images" / f"{index}.{('png', 'jpg', 'BMP')[index]}")
    model, tokenizer = tiny_vlm("qwen2_vl"), AutoTokenizer.from_pretrained(folder)
    pictures = CalibrationPictures.of(model, files_of(model, folder))
    batches = load_batches(CalibrationData(tmp_path / "images"), tokenizer, pictures)
    assert sum(len(batch["input_ids"]) for batch in batches) == 3
    [row] = torch.cat([batch["image_grid_thw"] for batch in batches]).unique(dim=0).tolist()
    assert row == [1, 4, 6]
    with pytest.raises(
        InvalidInputError, match=r"images is a folder of images, which the model does not take; give text"
    ):
        load_batches(CalibrationData(tmp_path / "images"), tokenizer)


def test_what_is_refused(tmp_path, capsys):
    folder = write_checkpoint("qwen2_vl", tmp_path / "checkpoint")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "no image"}))
    given = ["compile", str(folder), "-o", str(tmp_path / "out.ttedge"), "--quant-vision"]
    assert main([*given, "fp8", "--calib-data", str(tmp_path / "text.jsonl"), "--max-image-tokens", "64"]) == 2
    assert "attend to images, are calibrated on images, and" in capsys.readouterr().err
    assert main([*given, "int4_awq"]) == 2
    assert "quantization 'int4_awq' is not for vision towers; choose one of fp8, int8_sq" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "text.jsonl"]
    config = CompileConfig.of(quant=QuantConfig(None, vision="fp8"), **LIMITS)
    with pytest.raises(InvalidInputError, match="are calibrated on images, and batches of token ids"):
        compile_model(
            lambda: tiny_vlm("qwen2_vl"), tmp_path / "out.ttedge", config, EngineTarget(), batches=[torch.ones(1, 4)]
        )


def test_a_language_model_has_no_tower(tmp_path):
    config = CompileConfig.of(quant=QuantConfig("int8_wo", vision="int8_sq"), max_input_len=8, max_seq_len=16)
    with pytest.raises(InvalidInputError, match="takes no images; omit --quant-vision"):
        compile_model(
            lambda: tiny_model("llama"), tmp_path / "out.ttedge", config, EngineTarget(), batches=[torch.ones(1, 4)]
        )
