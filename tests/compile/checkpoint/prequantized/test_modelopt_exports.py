"""What modelopt itself exports, read back and compared with the weights that it computes with."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import Qwen2ForCausalLM

from tests.models.tiny_models import tiny_config, tiny_model
from tt_edge.compile.checkpoint.prequantized import read_quantized

modelopt = pytest.importorskip("modelopt.torch.export", reason="modelopt is not installed with all that it imports")
mtq = pytest.importorskip("modelopt.torch.quantization")

# 128 columns are one group of INT4 AWQ.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
IDS = torch.arange(3, 35).view(2, 16)


def exported(folder, config):
    """The model with modelopt's quantizers, as it was before the export, and the checkpoint that was exported."""
    model = original()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mtq.quantize(model, config, lambda m: m(IDS))
        before = copy.deepcopy(model)
        modelopt.export_hf_checkpoint(model, export_dir=folder)
    return before, read_quantized(folder)


def original():
    model = tiny_model("qwen2", dtype=torch.float16, **SIZES)
    model.config.architectures = ["Qwen2ForCausalLM"]
    return model


def same_but_for_ties(read, linear):
    """``read`` ``[N, K]`` is what ``linear`` computes with; rounding in fp16 may move one value in 100 by a step of 1/7."""
    expected = linear.weight_quantizer(linear.weight).float()
    if (scale := linear.input_quantizer.pre_quant_scale) is not None:
        expected = expected * scale.float()
    difference = (read - expected).abs()
    assert (difference <= 2**-9 * expected.abs() + 1e-4).float().mean() > 0.99
    assert difference.max() <= expected.abs().max() / 7
    return True


def with_fp8_cache(config):
    kv_cache = [entry for entry in mtq.FP8_KV_CFG["quant_cfg"] if "bmm" in entry["quantizer_name"]]
    return {**config, "quant_cfg": [*config["quant_cfg"], *kv_cache]}


def restored(checkpoint):
    """An ordinary model in fp32 with the dequantized weights."""
    model = Qwen2ForCausalLM(tiny_config("qwen2", **SIZES)).eval().requires_grad_(False)
    linears = {f"{name}.weight": weight.dequantize() for name, weight in checkpoint.linears.items()}
    model.load_state_dict({**linears, **dict(checkpoint.plain_tensors())})
    return model


def test_fp8_with_an_fp8_cache(tmp_path):
    model, checkpoint = exported(tmp_path, with_fp8_cache(mtq.FP8_DEFAULT_CFG))
    assert len(checkpoint.linears) == 14
    for name, weight in checkpoint.linears.items():
        linear = model.get_submodule(name)
        assert (weight.format, weight.group_size, weight.dynamic_input) == ("fp8", None, False)
        if name.endswith(("o_proj", "down_proj")):  # layers with the same input share the largest scale
            assert same_but_for_ties(weight.dequantize(), linear)
            torch.testing.assert_close(weight.input_scale, linear.input_quantizer.amax.float() / 448)
    attention = model.model.layers[1].self_attn
    scales = checkpoint.kv_scales["model.layers.1.self_attn"]
    assert scales.k == pytest.approx(float(attention.k_bmm_quantizer.amax) / 448)
    assert scales.v == pytest.approx(float(attention.v_bmm_quantizer.amax) / 448)


def test_awq(tmp_path):
    model, checkpoint = exported(tmp_path, mtq.INT4_AWQ_CFG)
    for name, weight in checkpoint.linears.items():
        assert (weight.format, weight.group_size) == ("int4", 128)
        # Elsewhere the scale before quantization is folded into the norm, and the weight quantized again.
        assert (weight.pre_quant_scale is not None) == name.endswith(("o_proj", "down_proj"))
        if weight.pre_quant_scale is not None:
            assert same_but_for_ties(weight.dequantize(), model.get_submodule(name))
    true, theirs, ours = (m.float()(IDS).logits for m in (original(), model, restored(checkpoint)))
    assert (ours - true).norm() < 1.3 * (theirs - true).norm()  # norms and layers read together are the model


def test_nvfp4(tmp_path):
    model, checkpoint = exported(tmp_path, mtq.NVFP4_DEFAULT_CFG)
    for name, weight in checkpoint.linears.items():
        assert (weight.format, weight.group_size, weight.dynamic_input) == ("nvfp4", 16, True)
        # The widest step of E2M1 is from 4 to 6, and half of it the largest error; a block's scale is rounded as well.
        true = model.get_submodule(name).weight.float()
        step = (weight.scale.float() * weight.global_scale).repeat_interleave(16, dim=1)
        assert ((weight.dequantize() - true).abs() <= 1.07 * step + 1e-6).all()
        torch.testing.assert_close(weight.input_scale * 6 * 448, model.get_submodule(name).input_quantizer.amax.float())
