"""Quantized vision-language checkpoints, with the tensor names that transformers saves: read as they are, and compiled.

The truth is the same checkpoint in full precision with the weights that the formats stand for, loaded by transformers itself.
"""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.test_load_quantized import CASES, GROUP
from tests.models.vlm_checkpoints import write_checkpoint
from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import VISION
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.load_quantized import quantized_layers
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.parity.references.loading import load_reference
from tt_edge.compile.pipeline import compile_checkpoint
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.config import CompileConfig, EngineTarget, Precision

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")
#: A format for each family that is compiled; all formats are loaded for all families.
COMPILED = dict(zip(FAMILIES, ("awq", "gptq", "fp8-channels", "w4a16"), strict=True))
LIMITS = {"max_batch": 1, "max_input_len": 96, "max_seq_len": 128, "max_image_tokens": 64}
#: Linear layers of the language part, as checkpoints name them.
LANGUAGE = re.compile(r"(?!.*vis).*layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
#: And of the tower; most checkpoints list these in ``ignore`` or ``modules_to_not_convert``.
TOWER = re.compile(r".*(visual|vision_tower)\.(?!.*(embed|norm)).*\.weight")
BOTH = re.compile(f"{LANGUAGE.pattern}|{TOWER.pattern}")
#: A tower of windows and one of tiles.
WITH_TOWER = ("qwen2_5_vl", "internvl")


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    monkeypatch.setattr(packing, "GROUP", GROUP)
    torch.manual_seed(0)


def quantized(family, case, folder, layers=LANGUAGE):
    """A checkpoint in ``folder`` whose ``layers`` are quantized, and the model that it stands for."""
    config, make, *_ = CASES[case]
    write_checkpoint(family, folder)
    tensors = load_file(folder / "model.safetensors")
    names = [name for name, t in tensors.items() if layers.fullmatch(name) and t.ndim == 2 and t.shape[1] % GROUP == 0]
    assert len(names) == 14 if layers is LANGUAGE else len(names) >= 10
    for name in names:
        layer = make(*tensors[name].shape)
        tensors[name] = layer.weight
        for last, tensor in layer.tensors.items():
            tensors[name.removesuffix("weight") + f"new.{last}"] = tensor.contiguous()
    dense = {name: tensor for name, tensor in tensors.items() if ".new." not in name}
    save_file(dense, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    packed = {name.replace(".new.", "."): t for name, t in tensors.items() if name not in names}
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(settings))
    return model


@pytest.mark.parametrize("case", ["awq", "gptq", "fp8-channels", "w4a16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loaded(family, case, tmp_path):
    truth, checkpoint = quantized(family, case, tmp_path), Checkpoint.open(tmp_path)
    model, ids = checkpoint.load(Precision.FP32), torch.arange(3, 40)[None]
    assert type(model) is type(truth)
    assert len(quantized_layers(model)) == 14
    with torch.no_grad():
        wanted = truth(ids).logits
        assert (model(ids).logits - wanted).norm() < 1e-5 * wanted.norm()
        assert (load_reference(checkpoint, Precision.FP32)(ids).logits - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled(family, tmp_path):
    """Texts and images, verified against weights that are dequantized independently. A quantized tower stays quantized."""
    folder, output, tower = tmp_path / "checkpoint", tmp_path / "out.ttedge", family in WITH_TOWER
    quantized(family, COMPILED[family], folder, BOTH if tower else LANGUAGE)
    config = CompileConfig.of(precision="fp32", **LIMITS)
    target = EngineTarget(("sm89",) if family == "internvl" else ())
    report = compile_checkpoint(str(folder), output, config, target, progress=False)
    assert sum(report.quantized.values()) >= 24 if tower else sum(report.quantized.values()) == 14
    bundle = Bundle.open(output)
    assert any(layer.kind == "DEQUANTIZE" for layer in bundle.network(VISION).layers) == tower
    found = verify_bundle(bundle, folder, new_tokens=4)
    assert found.passed, found.render()
    assert {bool(row.pictures) for row in found.rows} == {True, False}


@pytest.mark.parametrize("case", ["awq", "gptq", "fp8-channels", "w4a16", "fp8-blocks", "modelopt-fp8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantized_tower_is_loaded(family, case, tmp_path):
    truth, checkpoint = quantized(family, case, tmp_path, TOWER), Checkpoint.open(tmp_path)
    model, reference = checkpoint.load(Precision.FP32), load_reference(checkpoint, Precision.FP32)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
    assert len(layers) >= 10
    for name, layer in layers.items():
        assert "vis" in name
        weight = truth.get_submodule(name).weight
        x = torch.eye(layer.in_features)[None]
        if layer.input_scale is None:
            torch.testing.assert_close(layer(x)[0].T - (0 if layer.bias is None else layer.bias[:, None]), weight)
        torch.testing.assert_close(reference.get_submodule(name).weight, weight)
