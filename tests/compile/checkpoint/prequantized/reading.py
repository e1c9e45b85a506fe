"""What the tests of this folder share: formats' settings, and a checkpoint of one layer that is read or refused."""

from __future__ import annotations

import pytest
import torch

from tests.compile.checkpoint.prequantized.packing import GROUP, LAYER, K, N, write
from tt_edge.compile.checkpoint.prequantized import read_quantized
from tt_edge.errors import UnsupportedModelError

AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "desc_act": False,
    "sym": True,
    "checkpoint_format": "gptq",
}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}


def compressed(weights, inputs=None, **more):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"], **more}


def only(folder):
    checkpoint = read_quantized(folder)
    assert list(checkpoint.linears) == [LAYER]
    return checkpoint.linears[LAYER]


def read(folder, config, layer):
    """The layer's weight, as read; it must dequantize to exactly what was packed."""
    weight = only(write(folder, config, {LAYER: layer.tensors}))
    assert (weight.out_features, weight.in_features) == (N, K)
    assert torch.equal(weight.dequantize(), layer.weight)
    return weight


def refused(folder, config, layer, message, error=UnsupportedModelError):
    write(folder, config, {LAYER: layer.tensors})
    with pytest.raises(error, match=message) as caught:
        _ = read_quantized(folder).linears[LAYER]
    assert "\n" not in str(caught.value)
    return str(caught.value)
