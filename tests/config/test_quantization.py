"""Recipes: what is accepted, what a layer gets, what is refused by name."""

from __future__ import annotations

import pytest

from tt_edge.config import CompileConfig
from tt_edge.config.quantization import LayerPlace, QuantConfig, QuantFormat, check_capability
from tt_edge.errors import EngineError, InvalidInputError


def test_the_first_rule_that_matches_decides():
    recipe = QuantConfig.parse("int4_awq", "*.layers.0.*=none, *.down_proj=fp8 ,*.o_proj=none")
    assert recipe.format_of("model.layers.0.mlp.down_proj") is None
    assert recipe.format_of("model.layers.1.mlp.down_proj") is QuantFormat.FP8
    assert recipe.format_of("model.layers.1.self_attn.o_proj") is None
    assert recipe.format_of("model.layers.1.self_attn.q_proj") is QuantFormat.INT4_AWQ
    assert recipe.formats == {QuantFormat.INT4_AWQ, QuantFormat.FP8}
    assert recipe.name == "int4_awq+fp8"


def test_the_head_stays_in_half_precision_unless_a_rule_names_it():
    assert QuantConfig("fp8").format_of("lm_head", LayerPlace.HEAD) is None
    assert QuantConfig.parse("fp8", "lm_head=int8_wo").format_of("lm_head", LayerPlace.HEAD) is QuantFormat.INT8_WO


def test_rules_alone_are_a_recipe():
    recipe = QuantConfig.parse(None, "*.mlp.*=fp8")
    assert recipe.format_of("model.layers.0.self_attn.q_proj") is None
    assert QuantConfig.parse(None, None) is None


def test_round_trip():
    config = CompileConfig.of(quant=QuantConfig("int4_wo", (("*.o_proj", "none"),), 64))
    assert CompileConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuantConfig("int3"), "quantization 'int3' is unknown; choose one of fp8, int8_sq"),
        (lambda: QuantConfig.parse("fp8", "*.o_proj=int3"), r"the rule for layers '\*\.o_proj' says 'int3'; choose"),
        (lambda: QuantConfig.parse("fp8", "o_proj"), "--quant-layers has 'o_proj'; give PATTERN=FORMAT"),
        (lambda: QuantConfig.parse("fp8", "=fp8"), "--quant-layers has '=fp8'"),
        (lambda: QuantConfig("int4_wo", group_size=48), "group size 48 of INT4 is not one of 32, 64, 128"),
        (lambda: QuantConfig.from_dict({"formt": "fp8"}), "is not of the form format, rules, group_size"),
        (lambda: CompileConfig.of(kv_cache="int8"), "kv_cache 'int8' is unknown"),
        (lambda: CompileConfig.of(kv_cache="bf16"), "kv_cache bf16 differs from precision fp16"),
        (lambda: CompileConfig.of(kv_cache="fp8"), "kv_cache fp8 is not for backend native"),
        (lambda: CompileConfig.of(kv_cache="fp8", backend="sdpa"), "kv_cache fp8 is not for backend sdpa"),
        (
            lambda: CompileConfig.of(kv_cache="fp8", backend="plugin", plugin_contract="0.4"),
            "not in plugin contract 0.4",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


@pytest.mark.parametrize(
    ("format", "first"), [("fp8", 89), ("nvfp4", 100), ("int4_awq", 80), ("int4_wo", 80), ("int8_sq", 75)]
)
def test_capabilities(format, first):
    check_capability(format, f"sm{first}")
    with pytest.raises(EngineError, match=f"{format} needs compute capability sm{first} or later, not sm{first - 1}"):
        check_capability(format, f"sm{first - 1}")
