"""How a checkpoint is quantized, from its folder, its settings or its configuration."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import Qwen2Config

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import GROUP, LAYER, write
from tests.compile.checkpoint.prequantized.reading import AWQ, only
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.prequantized import detect, read_quantized
from tt_edge.errors import InvalidInputError


def test_from_folder_mapping_and_configuration(tmp_path):
    found = detect(write(tmp_path, AWQ, {LAYER: packing.awq().tensors}))
    assert (found.method, str(found)) == ("awq", f"awq (4 bits, groups of {GROUP})")
    assert detect({"quantization_config": AWQ}) == detect({"text_config": {"quantization_config": AWQ}}) == found
    assert detect(Qwen2Config(quantization_config=AWQ)) == found


def test_modelopt_by_its_own_file(tmp_path):
    layer = packing.fp8(torch.tensor(0.5), input_scale=torch.tensor(1.0))
    write(tmp_path, {}, {LAYER: layer.tensors})
    content = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    }
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(content))
    assert str(detect(tmp_path)) == "modelopt (FP8)"
    assert detect(tmp_path).fp8_kv_cache
    assert only(tmp_path).format == "fp8"


def test_an_ordinary_checkpoint(tmp_path):
    assert detect(write(tmp_path, {}, {})) is detect({"model_type": "qwen2"}) is None
    Checkpoint.open(tmp_path).check_not_quantized("fp8")
    with pytest.raises(InvalidInputError, match="is not quantized"):
        read_quantized(tmp_path)


def test_quantizing_twice_is_refused(tmp_path):
    write(tmp_path, AWQ, {})
    with pytest.raises(InvalidInputError, match=r"is quantized already, as awq .*omit --quant fp8"):
        Checkpoint.open(tmp_path).check_not_quantized("fp8")


def test_settings_that_are_no_object():
    with pytest.raises(InvalidInputError, match=r"quantization_config of config.json is 'awq'"):
        detect({"quantization_config": "awq"})


def test_not_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidInputError, match="not valid JSON"):
        detect(tmp_path)
