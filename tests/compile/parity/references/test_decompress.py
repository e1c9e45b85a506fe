"""compressed-tensors' own library beside our two readings of its format, and beside transformers with that library."""

from __future__ import annotations

import json

import pytest
import torch

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.test_load_quantized import (
    BLOCK,
    FP8,
    FP8_TOKENS,
    GROUP,
    INT4,
    block_fp8,
    channel_fp8,
    compressed,
)
from tests.models.tiny_models import tiny_model
from tt_edge.compile.checkpoint import Checkpoint
from tt_edge.compile.checkpoint.prequantized import read_quantized
from tt_edge.compile.parity.references import decompress
from tt_edge.compile.parity.references.decompress import Decompressor
from tt_edge.compile.parity.references.dequantize import dequantized
from tt_edge.compile.parity.references.loading import load_reference
from tt_edge.config import Precision

pytest.importorskip("compressed_tensors", reason="compares with the format's own library, which is not installed")

UP = "model.layers.0.mlp.up_proj"
STATIC = {"strategy": "tensor", "dynamic": False}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
PACKED = {"format": "pack-quantized"}


def int8(n, k, **others):
    values, scale = torch.randint(-127, 128, (n, k)).to(torch.int8), packing.random_scales(n, 1)
    return packing.Layer(values * scale.float(), {"weight": values, "weight_scale": scale, **others})


def nvfp4(n, k, **others):
    codes, blocks, weight = packing.nvfp4(1 / 1024, n=n, k=k)
    outer = torch.tensor([1024.0])
    tensors = {"weight_packed": codes, "weight_scale": blocks, "weight_global_scale": outer, **others}
    return packing.Layer(weight, tensors)


def static_int8(n, k):
    return int8(n, k, input_scale=torch.tensor([0.03], dtype=torch.bfloat16))


def static_fp8(n, k):
    return packing.fp8(torch.tensor([0.003]), n=n, k=k, input_scale=torch.tensor([0.02]))


def nvfp4_inputs(n, k):
    return nvfp4(n, k, input_global_scale=torch.tensor([64.0]))


#: Settings, how a layer is made, and whether its inputs are rounded.
CASES = {
    "w4a16": (compressed(INT4, **PACKED), lambda n, k: packing.packed(n=n, k=k), False),
    "w4a16-asymmetric": (
        compressed({**INT4, "symmetric": False}, **PACKED), lambda n, k: packing.packed(symmetric=False, n=n, k=k), False,
    ),
    "w8a16": (compressed({**INT4, "num_bits": 8}, **PACKED), lambda n, k: packing.packed(bits=8, n=n, k=k), False),
    "int8": (compressed(INT8, {**INT8, "strategy": "token", "dynamic": True}, format="int-quantized"), int8, False),
    "int8-static": (compressed(INT8, {**INT8, **STATIC}, format="int-quantized"), static_int8, True),
    "fp8": (compressed(FP8, FP8_TOKENS, format="float-quantized"), channel_fp8, False),
    "fp8-static": (compressed(FP8 | {"strategy": "tensor"}, FP8 | STATIC, format="float-quantized"), static_fp8, True),
    "fp8-blocks": (
        compressed(FP8 | {"strategy": "block", "block_structure": BLOCK}, FP8_TOKENS, format="float-quantized"),
        block_fp8("weight_scale"), False,
    ),
    "nvfp4": (compressed(NVFP4, {**NVFP4, "dynamic": "local"}, format="nvfp4-pack-quantized"), nvfp4_inputs, True),
    "nvfp4a16": (compressed(NVFP4, format="nvfp4-pack-quantized"), nvfp4, False),
}  # fmt: skip


@pytest.fixture(autouse=True)
def groups(monkeypatch):
    monkeypatch.setattr(packing, "GROUP", GROUP)
    torch.manual_seed(0)


def opened(folder, config, make):
    packing.write_model(folder, tiny_model("qwen2"), config, make)
    return Checkpoint.open(folder)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_rounded_inputs(tmp_path, case):
    config, make, rounds = CASES[case]
    checkpoint = opened(tmp_path, config, make)
    library = Decompressor(config)
    theirs, _ = dequantized(checkpoint, library.layer)
    second, _ = dequantized(checkpoint)
    compiled = read_quantized(tmp_path).linears
    assert str(library) == f"compressed-tensors {decompress.library_version()}"
    for name, layer in theirs.items():
        assert torch.equal(layer.weight, second[name].weight)
        assert torch.equal(layer.weight, compiled[name].dequantize())
    assert (theirs[UP].prepare is not None) == (second[UP].prepare is not None) == rounds
    if rounds:
        x = torch.randn(2, 50, 64).half()
        assert torch.equal(theirs[UP].prepare(x), second[UP].prepare(x))
        assert not torch.equal(theirs[UP].prepare(x), x.float())


@pytest.mark.parametrize("case", ["w4a16", "int8", "fp8", "fp8-blocks", "nvfp4a16"])
def test_logits_are_those_of_transformers_with_the_library(tmp_path, case):
    """But that transformers rounds weights in the type of their scales, bfloat16 for packed ones."""
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    checkpoint, ids = opened(tmp_path, *CASES[case][:2]), torch.arange(3, 40)[None]
    settings = CompressedTensorsConfig(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=settings).eval()
    model = load_reference(checkpoint, Precision.FP32)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), rtol=2**-8, atol=0)
    wanted = theirs(ids).logits
    assert (model(ids).logits - wanted).norm() < (0.02 if case in ("w4a16", "int8") else 1e-6) * wanted.norm()


def test_act_order_which_the_library_does_not_read(tmp_path):
    checkpoint = opened(tmp_path, compressed(INT4, **PACKED), lambda n, k: packing.packed(act_order=True, n=n, k=k))
    library = Decompressor(checkpoint.quantization.config)
    theirs, _ = dequantized(checkpoint, library.layer)
    assert torch.equal(theirs[UP].weight, read_quantized(tmp_path).linears[UP].dequantize())
    assert str(library).endswith("(layers with act-order by a second implementation of the format)")


def test_the_most_specific_group_applies(tmp_path):
    """A layer's name goes before a pattern, and a pattern before a class, in whatever order the groups stand."""
    eight, four = {"weights": {**INT4, "num_bits": 8}}, {"weights": INT4}
    groups = {
        "group_0": {"targets": ["Embedding", "re:.*mlp.*"], **four},
        "group_1": {"targets": ["Linear"], **eight},
        "group_2": {"targets": [UP], **eight},
    }
    config = {"quant_method": "compressed-tensors", "config_groups": groups, "format": "pack-quantized"}
    config["ignore"] = ["lm_head"]
    make = {name: packing.packed(bits=8 if "mlp" not in name or name == UP else 4, n=packing.N, k=packing.K)
            for name in ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate_proj", UP)}  # fmt: skip
    folder = packing.write(tmp_path, config, {name: layer.tensors for name, layer in make.items()})
    compiled, library = read_quantized(folder).linears, Decompressor(config)
    for name, layer in make.items():
        assert torch.equal(compiled[name].dequantize(), layer.weight)
        assert torch.equal(library.layer(name, layer.tensors).weight, layer.weight)
    second, _ = dequantized(Checkpoint.open(folder))
    assert all(torch.equal(second[name].weight, layer.weight) for name, layer in make.items())


def test_the_yardstick_is_named(tmp_path, monkeypatch):
    checkpoint = opened(tmp_path, *CASES["fp8"][:2])
    named = load_reference(checkpoint, Precision.FP32).tt_edge_yardstick
    assert f"its weights dequantized by compressed-tensors {decompress.library_version()}" in named
    monkeypatch.setattr("tt_edge.compile.parity.references.loading.library_version", lambda: None)
    named = load_reference(checkpoint, Precision.FP32).tt_edge_yardstick
    assert named.endswith("its weights dequantized by a second implementation of the format")
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["quantization_config"] == CASES["fp8"][0]
