"""FP8 and NVFP4, and INT8 that is not packed, come back exactly."""

from __future__ import annotations

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import LAYER, K, N, write
from tests.compile.checkpoint.prequantized.reading import FP8, INT4, NVFP4, compressed, read
from tt_edge.compile.checkpoint.prequantized import read_quantized


@pytest.mark.parametrize("shape", [(), (1,), (N, 1)])
def test_fp8_of_compressed_tensors(tmp_path, shape):
    layer = packing.fp8(packing.random_scales(*shape, dtype=torch.bfloat16))
    weight = read(tmp_path, compressed(FP8, {**FP8, "strategy": "token", "dynamic": True}), layer)
    assert (weight.format, weight.input_scale, weight.dynamic_input) == ("fp8", None, True)
    assert tuple(weight.scale.shape) == (N if shape == (N, 1) else 1,)


def test_fp8_with_static_activations(tmp_path):
    layer = packing.fp8(torch.tensor([0.5]), input_scale=torch.tensor([0.25]))
    weight = read(tmp_path, compressed(FP8, {**FP8, "strategy": "tensor"}, format="float-quantized"), layer)
    assert (weight.input_scale, weight.dynamic_input) == (torch.tensor(0.25), False)


def test_int8_of_compressed_tensors(tmp_path):
    values, scale = packing.random_codes(256).sub(128).to(torch.int8), packing.random_scales(N, 1)
    layer = packing.Layer(values.float() * scale.float(), {"weight": values, "weight_scale": scale})
    ints = {**FP8, "type": "int"}
    weight = read(tmp_path, compressed(ints, {**ints, "strategy": "token", "dynamic": True}), layer)
    assert (weight.format, weight.group_size, weight.dynamic_input) == ("int8", None, True)


@pytest.mark.parametrize("inputs", [None, {**NVFP4, "dynamic": "local"}])
def test_nvfp4_of_compressed_tensors(tmp_path, inputs):
    codes, blocks, true = packing.nvfp4(1 / 1024)
    tensors = {"weight_packed": codes, "weight_scale": blocks, "weight_global_scale": torch.tensor([1024.0])}
    if inputs:
        tensors["input_global_scale"] = torch.tensor([64.0])
    config = compressed(NVFP4, inputs, format="nvfp4-pack-quantized")
    weight = read(tmp_path, config, packing.Layer(true, tensors))
    assert (weight.format, weight.group_size, weight.nbytes) == (
        "nvfp4",
        16,
        N * K // 2 + N * K // 16 + (8 if inputs else 4),
    )
    assert (weight.dynamic_input, weight.input_scale) == ((True, torch.tensor(1 / 64)) if inputs else (False, None))


@pytest.mark.parametrize("algorithm", ["NVFP4", "W4A16_NVFP4"])
def test_nvfp4_of_modelopt(tmp_path, algorithm):
    codes, blocks, true = packing.nvfp4(0.003)
    tensors = {"weight": codes, "weight_scale": blocks, "weight_scale_2": torch.tensor(0.003)}
    if algorithm == "NVFP4":
        tensors["input_scale"] = torch.tensor(0.01)
    weight = read(tmp_path, {"quant_method": "modelopt", "quant_algo": algorithm}, packing.Layer(true, tensors))
    assert weight.dynamic_input == (weight.input_scale is not None) == (algorithm == "NVFP4")


def test_the_first_group_that_names_a_layer_counts(tmp_path):
    """One checkpoint with FP8 attention and INT4 for the rest, as its groups say."""
    config = compressed(INT4, format="mixed-precision")
    config["config_groups"]["group_1"] = {
        "targets": ["re:.*self_attn.*"],
        "weights": FP8,
        "input_activations": None,
    }
    layers = {"l.self_attn.q_proj": packing.fp8(torch.ones(N, 1)).tensors, LAYER: packing.packed().tensors}
    linears = read_quantized(write(tmp_path, config, layers)).linears
    assert {name: weight.format for name, weight in linears.items()} == {"l.self_attn.q_proj": "fp8", LAYER: "int4"}


def test_mixed_precision_of_modelopt(tmp_path):
    codes, blocks, _ = packing.nvfp4(1.0)
    four = {
        "weight": codes,
        "weight_scale": blocks,
        "weight_scale_2": torch.tensor(1.0),
        "input_scale": torch.tensor(1.0),
    }
    eight = packing.fp8(torch.tensor(1.0), input_scale=torch.tensor(1.0)).tensors
    algorithms = {"a": {"quant_algo": "NVFP4", "group_size": 16}, "b": {"quant_algo": "FP8"}}
    config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": algorithms}
    linears = read_quantized(write(tmp_path, config, {"a": four, "b": eight})).linears
    assert [linears[name].format for name in "ab"] == ["nvfp4", "fp8"]
