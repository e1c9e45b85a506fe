"""Checkpoints that are not what their own settings say."""

from __future__ import annotations

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import GROUP, LAYER, N, write
from tests.compile.checkpoint.prequantized.reading import AWQ, FP8, GPTQ, INT4, compressed, refused
from tt_edge.compile.checkpoint.prequantized import read_quantized
from tt_edge.errors import InvalidInputError


def damaged(folder, config, layer, message):
    refused(folder, config, layer, message, InvalidInputError)


def test_missing_tensor(tmp_path):
    layer = packing.awq()
    del layer.tensors["scales"]
    damaged(tmp_path, AWQ, layer, f"layer {LAYER}: tensor 'scales' is missing")


def test_shapes_that_do_not_fit(tmp_path):
    layer = packing.awq()
    layer.tensors["qzeros"] = layer.tensors["qzeros"][:, 1:]
    damaged(tmp_path, AWQ, layer, "do not fit together")


def test_a_scale_for_the_wrong_number_of_channels(tmp_path):
    damaged(
        tmp_path,
        compressed(FP8),
        packing.Layer(None, {**packing.fp8(torch.ones(1)).tensors, "weight_scale": torch.ones(5)}),
        "shape .5.",
    )


def test_scales_of_another_shape(tmp_path):
    layer = packing.gptq()
    layer.tensors["scales"] = torch.ones(N)
    damaged(tmp_path, GPTQ, layer, f"layer {LAYER}: its tensors do not fit together")


def test_zero_points_that_the_configuration_promises(tmp_path):
    damaged(tmp_path, compressed({**INT4, "symmetric": False}), packing.packed(), "'weight_zero_point' is missing")


def test_groups_that_are_not_there(tmp_path):
    layer = packing.gptq()
    layer.tensors["g_idx"][0] = 9
    damaged(tmp_path, GPTQ, layer, "does not put 64 input features into 4 groups")


def test_an_order_of_other_columns(tmp_path):
    layer = packing.gptq()
    layer.tensors["g_idx"] = layer.tensors["g_idx"][:-GROUP]
    damaged(tmp_path, GPTQ, layer, "does not put 64 input features into 4 groups")


def test_a_weight_saved_uncompressed(tmp_path):
    layer = packing.fp8(torch.ones(1))
    layer.tensors["weight"] = layer.tensors["weight"].half()
    damaged(tmp_path, compressed(FP8), layer, "float16 beside a scale")


def test_a_quantized_weight_without_scale(tmp_path):
    layer = packing.fp8(torch.ones(1))
    del layer.tensors["weight_scale"]
    checkpoint = read_quantized(write(tmp_path, compressed(FP8), {LAYER: layer.tensors}))
    with pytest.raises(InvalidInputError, match="its scale is missing"):
        list(checkpoint.plain_tensors())


def test_no_folder(tmp_path):
    with pytest.raises(InvalidInputError, match="is no folder"):
        read_quantized(tmp_path / "not there")


def test_no_weights(tmp_path):
    write(tmp_path, AWQ, {}, shards=2)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(InvalidInputError, match="does not open"):
        read_quantized(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(InvalidInputError, match="0 safetensors files"):
        read_quantized(tmp_path)
