"""Settings: validated when made, and a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tt_edge.config import Backend, CompileConfig, EngineTarget, Precision, QuantConfig
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError
from tt_edge.generation_config import GenerationConfig

CONFIGS = [
    CompileConfig(),
    CompileConfig.of(backend=Backend.PLUGIN, plugin_contract="0.9.1"),
    CompileConfig.of(
        precision=Precision.BF16, max_batch=4, max_input_len=128, max_seq_len=256, full_logits=True, single_profile=True
    ),
    CompileConfig.of(backend="plugin", quant=QuantConfig("int4_awq", (("*.down_proj", "fp8"),)), kv_cache="fp8"),
    EngineTarget(),
    EngineTarget(("sm89", "sm120"), True),
    GenerationConfig(),
    GenerationConfig(7, (1, 2), True),
    GenerationConfig(
        temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=3, stop="END", stop_token_ids=[4], logprobs=2
    ),
    GenerationConfig(repetition_penalty=1.2, presence_penalty=-1, frequency_penalty=2, logit_bias={5: 1, "3": -2.5}),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_round_trip(config):
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    hash(config)


@pytest.mark.parametrize("config", CONFIGS[::2], ids=repr)
def test_frozen(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_batch = 2


def test_unknown_fields_are_refused_by_name():
    with pytest.raises(InvalidInputError, match="CompileConfig has no field 'beams'; known fields: attention, "):
        CompileConfig.from_dict({"beams": 4})
    with pytest.raises(InvalidInputError, match="Limits has no field 'beams'; known fields: max_batch, "):
        CompileConfig.from_dict({"limits": {"beams": 4}})
    with pytest.raises(InvalidInputError, match="CompileConfig has no setting 'beams'; known settings: backend, "):
        CompileConfig.of(beams=4)
    with pytest.raises(InvalidInputError, match="limits is 4; it must be an object"):
        CompileConfig.from_dict({"limits": 4})


def test_plain_strings_become_enum_members():
    config = CompileConfig.of(backend="native", precision="bf16")
    assert (config.attention.backend, config.network.precision) == (Backend.NATIVE, Precision.BF16)
    assert [p.dtype for p in Precision] == [DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp64"}, "precision 'fp64' is unknown; choose one of fp16, bf16, fp32"),
        ({"precision": None}, "precision None is unknown"),
        ({"backend": "cuda"}, "backend 'cuda' is unknown; choose one of native"),
        ({"max_batch": 0}, "max_batch is 0; it must be an integer of at least 1"),
        ({"max_batch": True}, "max_batch is True; it must be an integer"),
        ({"max_input_len": -3}, "max_input_len is -3; it must be an integer"),
        ({"max_seq_len": 2048.0}, "max_seq_len is 2048.0; it must be an integer"),
        ({"max_seq_len": 0, "max_input_len": 0}, "max_seq_len is 0"),
        ({"plugin_contract": "0.11"}, "plugin_contract 0.11 is not for backend native; add --backend plugin"),
        (
            {"backend": "plugin", "plugin_contract": "1.0"},
            "plugin_contract '1.0' is unknown; choose one of 0.4, 0.9.1, 0.10, 0.11",
        ),
        ({"full_logits": "no"}, "full_logits is 'no'; it must be true or false"),
        ({"single_profile": 1}, "single_profile is 1; it must be true or false"),
        (
            {"max_input_len": 4096},
            "max_input_len 4096 exceeds max_seq_len 2048; raise --max-seq-len or lower --max-input-len",
        ),
    ],
)
def test_wrong_compile_settings_are_named_with_their_value(settings, message):
    with pytest.raises(InvalidInputError) as caught:
        CompileConfig.of(**settings)
    assert message in str(caught.value)


def test_lengths_may_be_equal():
    assert CompileConfig.of(max_input_len=64, max_seq_len=64).limits.max_input_len == 64


@pytest.mark.parametrize(
    ("text", "capabilities", "local"),
    [
        ("none", (), False),
        ("local", (), True),
        ("sm89", ("sm89",), False),
        ("sm89,sm120", ("sm89", "sm120"), False),
        (" SM89 , local,sm89,", ("sm89",), True),
    ],
)
def test_engine_targets(text, capabilities, local):
    assert EngineTarget.parse(text) == EngineTarget(capabilities, local)


@pytest.mark.parametrize("text", ["foo", "89", "sm8", "sm8900", "sm_89", "none,sm89", "sm89;sm90", "sm89 sm90"])
def test_wrong_engine_targets(text):
    with pytest.raises(
        InvalidInputError, match=r"engine target '.*' is not of the form sm89; give e\.g\. --engine sm89"
    ):
        EngineTarget.parse(text)


@pytest.mark.parametrize("text", ["", " ", ","])
def test_an_empty_engine_target_is_not_taken_for_none(text):
    with pytest.raises(InvalidInputError, match=r"is empty; give e\.g\. --engine sm89,sm120, local or none"):
        EngineTarget.parse(text)


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
def test_max_new_tokens(value):
    with pytest.raises(InvalidInputError, match=f"max_new_tokens is {value!r}; it must be an integer of at least 1"):
        GenerationConfig(value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, "temperature is -0.1; it must be a number from 0 to 100"),
        ("temperature", float("nan"), "temperature is nan"),
        ("temperature", 10**400, "temperature is 1000"),
        ("repetition_penalty", float("inf"), "repetition_penalty is inf"),
        ("temperature", "hot", "temperature is 'hot'"),
        ("top_k", -1, "top_k is -1; it must be an integer from 0"),
        ("top_k", 2.0, "top_k is 2.0"),
        ("top_p", 0, "top_p is 0; it must be above 0, and 1 turns it off"),
        ("top_p", 1.1, "top_p is 1.1; it must be a number from 0 to 1"),
        ("min_p", True, "min_p is True"),
        ("repetition_penalty", 0, "repetition_penalty is 0"),
        ("presence_penalty", 2.5, "presence_penalty is 2.5; it must be a number from -2 to 2"),
        ("frequency_penalty", float("inf"), "frequency_penalty is inf"),
        ("logit_bias", {"a": 1}, "logit_bias has key 'a'; its keys are token ids"),
        ("logit_bias", {-1: 1}, "logit_bias has key '-1'; its keys are token ids"),
        ("logit_bias", {1: 101}, "logit_bias of token 1 is 101; it must be a number from -100 to 100"),
        ("logit_bias", 5, "logit_bias is 5; it must map token ids to numbers"),
        ("seed", -1, "seed is -1"),
        ("stop", ("",), "stop string '' is not of 1 to 256 characters"),
        ("stop", (3,), "stop string 3 is not of"),
        ("stop", ("a",) * 17, "17 stop strings are too many; give at most 16"),
        ("stop_token_ids", ("x",), "stop_token_ids is 'x'"),
        ("logprobs", 21, "logprobs is 21; it must be an integer from 0 to 20"),
        ("ignore_eos", 1, "ignore_eos is 1; it must be true or false"),
    ],
)
def test_bad_generation_parameters(field, value, message):
    with pytest.raises(InvalidInputError) as caught:
        GenerationConfig(**{field: value})
    assert str(caught.value).startswith(message)


def test_logit_bias_is_kept_as_pairs():
    assert GenerationConfig(logit_bias={"7": 1, 3: -2}).logit_bias == ((3, -2.0), (7, 1.0))
