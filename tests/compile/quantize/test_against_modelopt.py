"""Our quantized models compute what modelopt's fake quantization computes, with its own configurations."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.models.tiny_models import tiny_model
from tt_edge.compile.quantize.calibrate import calibrate, from_bytes, to_bytes
from tt_edge.compile.quantize.layers import Statistics, layers_to_quantize, quantize_model, quantize_weight
from tt_edge.compile.quantize.quantized_linear import QuantizedLinear
from tt_edge.config.quantization import QuantConfig, QuantFormat
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.plugins.ops.quantization import dequantize_weight, fake_quantize_nvfp4

#: modelopt's name of each recipe. Its NVFP4 runs only on a GPU.
CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int8_wo": "INT8_WEIGHT_ONLY_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "int4_wo": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
}
IDS = torch.arange(3, 51)[None]
BATCHES = [
    {"input_ids": torch.randint(3, 300, (4, 24), generator=torch.Generator().manual_seed(1))},
    {"input_ids": IDS},
]


def wide(**settings):
    return tiny_model("llama", hidden_size=128, intermediate_size=256, head_dim=32, **settings)


def error(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def weights_at_ties(ours, theirs):
    """How many INT4 weights round to another value than modelopt's; all of them lie half way between the two.

    The last bit of the scales that AWQ finds depends on the order in which a processor adds, and decides such a weight.
    """
    count = 0
    for name, module in ours.named_modules():
        if isinstance(module, QuantizedLinear) and module.format == "int4":
            other = theirs.get_submodule(name)
            blocks = other.weight.detach().reshape(*module.scale.shape, -1) / module.scale[..., None]
            chosen, wanted = (
                matrix.detach().reshape(blocks.shape) / module.scale[..., None]
                for matrix in (
                    dequantize_weight(module.values, module.scale, None, "int4"),
                    other.weight_quantizer(other.weight),
                )
            )
            differ = (chosen - wanted).abs() > 0.5
            assert ((blocks[differ].abs() % 1 - 0.5).abs() < 1e-5).all(), name
            count += int(differ.sum())
    return count


def layer_errors(ours, theirs):
    """The error of each quantized layer on the very inputs that it has in ``theirs``."""
    layers = {name: module for name, module in ours.named_modules() if isinstance(module, QuantizedLinear)}
    found = []
    for name, module in layers.items():
        theirs.get_submodule(name).register_forward_hook(
            lambda _, given, result, own=module: found.append(error(own(given[0]), result))
        )
    theirs(IDS)
    assert len(found) == len(layers)
    return found


@pytest.mark.parametrize("format", CONFIGS)
def test_logits_equal_modelopts(format):
    """Within 1e-3: activations that lie between two values may round to either, as sums differ in their last bit.

    One weight that rounds to its other neighbour changes the logits of this small model by as much as 2e-3.
    """
    import modelopt.torch.quantization as mtq

    source = wide()
    recipe = QuantConfig(format, group_size=128)

    def loop(model):
        for batch in BATCHES:
            model(**batch, use_cache=False)

    reference = mtq.quantize(copy.deepcopy(source), copy.deepcopy(getattr(mtq, CONFIGS[format])), loop)
    theirs = reference(IDS).logits
    ours = copy.deepcopy(source)
    statistics = calibrate(ours, recipe, BATCHES, device="cpu")
    assert not any("modelopt" in type(m).__module__ for m in ours.modules())  # the model is as it was
    assert torch.equal(ours(IDS).logits, source(IDS).logits)
    quantize_model(ours, recipe, from_bytes(to_bytes(statistics)))
    assert sum(isinstance(m, QuantizedLinear) for m in ours.modules()) == 14
    assert not isinstance(ours.lm_head, QuantizedLinear)
    ties = weights_at_ties(ours, reference)
    assert ties <= 2
    found = error(ours(IDS).logits, theirs)
    if format == "fp8" and found < 2e-2:
        # On some processors an activation lies at such a tie, and all later layers see it. Given the same inputs, no layer differs.
        found = max(layer_errors(ours, reference))
    assert found < 1e-3 + 2e-3 * ties
    assert error(theirs, source(IDS).logits) > 2e-3  # quantization is no small thing


def test_nvfp4_is_as_its_definition_says():
    """Every block has a scale that takes its largest magnitude to 6, rounded to E4M3; elements are the nearest of eight."""
    torch.manual_seed(0)
    x = torch.randn(8, 64)
    outer = x.abs().max() / (6 * 448)
    got = fake_quantize_nvfp4(x, outer)
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    grid = torch.cat([-grid.flip(0), grid])
    for row, result in zip(x.reshape(-1, 16), got.reshape(-1, 16), strict=True):
        scale = (row.abs().max() / 6 / outer).to(torch.float8_e4m3fn).float() * outer
        nearest = (row[:, None] / scale - grid).abs().argmin(-1)
        torch.testing.assert_close(result, grid[nearest] * scale)


@pytest.mark.parametrize("format", list(QuantFormat))
def test_weights_are_as_near_as_the_format_allows(format):
    torch.manual_seed(0)
    weight = torch.randn(32, 128).half()
    quantized = quantize_weight(weight, format, Statistics(torch.tensor(4.0)), 128)
    matrix = dequantize_weight(quantized.values, quantized.scale, quantized.global_scale, str(quantized.format))
    bar = {"fp8": 0.03, "int8_sq": 0.01, "int8_wo": 0.01, "int4_awq": 0.15, "int4_wo": 0.15, "nvfp4": 0.11}[format]
    assert error(matrix, weight.float()) < bar
    bits = 4 if format in ("int4_awq", "int4_wo", "nvfp4") else 8
    assert quantized.values.nbytes == weight.numel() * bits // 8


def test_calibration_is_deterministic_and_kept_by_content(tmp_path):
    recipe = QuantConfig("int8_sq")
    first = calibrate(wide(), recipe, BATCHES, device="cpu", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.read_bytes()
    again = calibrate(wide(), recipe, BATCHES, device="cpu", cache=tmp_path)
    assert to_bytes(again) == to_bytes(first) == to_bytes(calibrate(wide(), recipe, BATCHES, device="cpu"))
    assert (file.read_bytes(), len(list(tmp_path.iterdir()))) == (written, 1)
    calibrate(wide(seed=1), recipe, BATCHES, device="cpu", cache=tmp_path)  # other weights
    calibrate(wide(), recipe, BATCHES[:1], device="cpu", cache=tmp_path)  # other text
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_cache_is_calibrated_again(tmp_path):
    recipe = QuantConfig("fp8")
    first = calibrate(wide(), recipe, BATCHES, device="cpu", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40])
    assert to_bytes(calibrate(wide(), recipe, BATCHES, device="cpu", cache=tmp_path)) == to_bytes(first)


def test_a_mixed_recipe():
    recipe = QuantConfig.parse("int4_wo", "*.layers.0.*=none,*.down_proj=fp8,lm_head=int8_wo", 64)
    model = wide()
    found = layers_to_quantize(model, recipe)
    assert not any("layers.0." in name for name in found)
    assert found["model.layers.1.mlp.down_proj"] is QuantFormat.FP8
    assert found["lm_head"] is QuantFormat.INT8_WO
    before = model(IDS).logits
    quantize_model(model, recipe, calibrate(model, recipe, BATCHES, device="cpu"))
    assert 1e-4 < error(model(IDS).logits, before) < 0.3


def test_nothing_to_quantize():
    with pytest.raises(UnsupportedModelError, match=r"GPT2LMHeadModel has no linear layer that the recipe quantizes"):
        layers_to_quantize(tiny_model("gpt2"), QuantConfig("fp8"))
    with pytest.raises(UnsupportedModelError, match="check the patterns of --quant-layers"):
        layers_to_quantize(wide(), QuantConfig.parse(None, "*.nothing=fp8"))


def test_a_width_that_groups_do_not_divide():
    with pytest.raises(InvalidInputError, match=r"q_proj has 64 input features, .* groups of 128; give a smaller"):
        layers_to_quantize(tiny_model("llama"), QuantConfig("int4_wo"))
    assert len(layers_to_quantize(tiny_model("llama"), QuantConfig("int4_wo", group_size=32))) == 14


def test_coefficients_of_a_few_features_are_left_unless_a_rule_names_them():
    """Gemma 3n mixes its states by linear layers of three features; INT4's groups would not fit them."""
    model = tiny_model("gemma3n", hidden_size_per_layer_input=32, laurel_rank=32)
    found = layers_to_quantize(model, QuantConfig("int4_wo", group_size=32))
    assert {f"model.layers.3.{name}" for name in ("laurel.linear_left", "per_layer_input_gate")} < found.keys()
    assert not [name for name in found if name.endswith(("_coefs", "modality_router"))]
    named = layers_to_quantize(model, QuantConfig.parse("int8_wo", "*.0.altup.modality_router=int8_wo"))
    assert [name for name in named if "altup." in name] == ["model.layers.0.altup.modality_router"]
