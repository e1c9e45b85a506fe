"""What a quantized checkpoint's folder holds besides its layers."""

from __future__ import annotations

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import LAYER, K, write
from tests.compile.checkpoint.prequantized.reading import AWQ, FP8, GPTQ, compressed, only
from tt_edge.compile.checkpoint.prequantized import KVScales, read_quantized


@pytest.mark.parametrize("shards", [1, 3])
def test_everything_else_stays_as_it_is(tmp_path, shards):
    layers = {LAYER: packing.awq().tensors, "other": packing.awq().tensors}
    checkpoint = read_quantized(write(tmp_path, AWQ, layers, shards))
    plain = dict(checkpoint.plain_tensors())
    assert plain.keys() == {"model.embed_tokens.weight", f"{LAYER}.bias", "lm_head.weight"}
    assert set(checkpoint.linears) == {LAYER, "other"}
    assert checkpoint.linears["other"].in_features == K


def test_a_file_with_a_name_of_its_own(tmp_path):
    write(tmp_path, GPTQ, {LAYER: packing.gptq().tensors})
    (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-128g.safetensors")
    assert only(tmp_path).format == "int4"


@pytest.mark.parametrize(
    "names", [("k_scale", "v_scale"), ("k_proj.k_scale", "v_proj.v_scale"), ("k_proj.output_scale",) * 2]
)
def test_scales_of_the_kv_cache(tmp_path, names):
    k, v = names[0], names[1].replace("k_proj.o", "v_proj.o")
    tensors = {k: torch.tensor([0.5]), v: torch.tensor(0.25)}
    layers = {LAYER: packing.fp8(torch.ones(1)).tensors, "model.layers.0.self_attn": tensors}
    config = compressed(FP8, kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False})
    checkpoint = read_quantized(write(tmp_path, config, layers))
    assert checkpoint.kv_scales == {"model.layers.0.self_attn": KVScales(k=0.5, v=0.25)}
    assert not any("self_attn" in name for name, _ in checkpoint.plain_tensors())
    assert list(checkpoint.linears) == [LAYER]


def test_a_layer_is_read_when_it_is_asked_for(tmp_path):
    damaged = {"qweight": torch.zeros(1, 1)}
    linears = read_quantized(write(tmp_path, AWQ, {"bad": damaged, LAYER: packing.awq().tensors})).linears
    assert (linears[LAYER].format, len(linears), "bad" in linears) == ("int8", 2, True)
