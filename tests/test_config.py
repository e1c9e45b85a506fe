"""Settings: validated when made, and a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tt_edge.config import Backend, CompileConfig, EngineTarget, GenerationConfig, Precision
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError

CONFIGS = [
    CompileConfig(),
    CompileConfig(Backend.PLUGIN, plugin_contract="0.9.1"),
    CompileConfig(Backend.NATIVE, Precision.BF16, 4, 128, 256, True, True),
    EngineTarget(),
    EngineTarget(("sm89", "sm120"), True),
    GenerationConfig(),
    GenerationConfig(7, (1, 2), True),
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
    with pytest.raises(InvalidInputError, match="CompileConfig has no field 'beams'; known fields: backend, "):
        CompileConfig.from_dict({"beams": 4})


def test_plain_strings_become_enum_members():
    config = CompileConfig(backend="native", precision="bf16")
    assert (config.backend, config.precision) == (Backend.NATIVE, Precision.BF16)
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
        CompileConfig(**settings)
    assert message in str(caught.value)


def test_lengths_may_be_equal():
    assert CompileConfig(max_input_len=64, max_seq_len=64).max_input_len == 64


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
