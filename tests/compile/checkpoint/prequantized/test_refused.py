"""What other tools write and nothing here reads is refused, by layer and value."""

from __future__ import annotations

import json

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import GROUP, LAYER, K, write
from tests.compile.checkpoint.prequantized.reading import AWQ, FP8, GPTQ, INT4, compressed, refused
from tt_edge.compile.checkpoint.prequantized import read_quantized
from tt_edge.errors import UnsupportedModelError


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "bitsandbytes, which is not read; use one of awq, gptq",
        ),
        ({**AWQ, "bits": 3}, "AWQ with 3 bits"),
        ({**AWQ, "version": "gemv"}, "gemv layout"),
        ({**AWQ, "group_size": -1}, "group_size -1"),
        ({**GPTQ, "bits": 3}, "GPTQ with 3 bits"),
        ({**GPTQ, "group_size": -1}, "group_size -1"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "marlin layout"),
        (compressed({**INT4, "num_bits": 3}), "3 bits"),
        (compressed({**INT4, "strategy": "channel", "group_size": -1}), "group_size -1"),
        (compressed({**FP8, "strategy": "tensor_group"}), "by tensor_group"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "FP8 blocks with static activations"),
        (compressed(INT4, format="marlin-24"), "format marlin-24"),
        (compressed(INT4, sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask sparsity"),
        (compressed(INT4, transform_config={"config_groups": {"u": {}}}), "transforms"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "algorithm W4A8_AWQ"),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"},
            "KV cache scheme NVFP4",
        ),
    ],
)
def test_formats(tmp_path, config, message):
    write(tmp_path, config, {})
    with pytest.raises(UnsupportedModelError, match=message):
        read_quantized(tmp_path)


def test_a_layer_of_3_bits_among_others(tmp_path):
    layer = packing.gptq()
    layer.tensors["qzeros"] = torch.zeros(K // GROUP, 2, dtype=torch.int32)
    assert LAYER in refused(tmp_path, GPTQ, layer, r"2\.67 bits is not read")


@pytest.mark.parametrize("config", [AWQ, GPTQ, compressed(INT4)])
def test_features_that_groups_do_not_divide(tmp_path, config):
    make = {"awq": packing.awq, "gptq": packing.gptq, "compressed-tensors": packing.packed}[config["quant_method"]]
    layer = make()
    layer.tensors.pop("g_idx", None)
    config = json.loads(json.dumps(config).replace(f'"group_size": {GROUP}', '"group_size": 24'))
    refused(tmp_path, config, layer, f"{K} input features are not 4 groups of group_size 24; use")


def test_groups_of_different_sizes(tmp_path):
    layer = packing.gptq()
    layer.tensors["g_idx"][0] = 3
    refused(tmp_path, GPTQ, layer, "in groups of 15 to 17")


def test_weights_and_activations_of_different_types(tmp_path):
    config = compressed(INT4, {**FP8, "dynamic": True, "strategy": "token"})
    refused(tmp_path, config, packing.packed(), "activations of 8 bits .float. with weights of 4 bits .int.")


def test_a_tensor_that_nothing_here_reads(tmp_path):
    layer = packing.fp8(torch.tensor(1.0), input_scale=torch.tensor(1.0), svdquant_lora_a=torch.ones(2, K))
    refused(tmp_path, {"quant_method": "modelopt", "quant_algo": "FP8"}, layer, "svdquant_lora_a is not read")
