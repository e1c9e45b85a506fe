"""The engine I/O contract: shapes, profiles, bytes, and a round trip through JSON."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.models.decoders import compiled
from tt_edge.contract import (
    BATCH,
    CONTEXT_PROFILE,
    GENERATION_PROFILE,
    GENERATION_TOKENS,
    ONE_PROFILE,
    SEQUENCE,
    TWO_PROFILES,
    IOContract,
    ShapeRange,
    TensorSpec,
)
from tt_edge.dtypes import DType
from tt_edge.errors import BundleError

CONTRACT = compiled(max_batch=3, max_input_len=40)[1]
CACHE = (2, 48, 16)  # [kv_heads, max_seq_len, head_dim]


def from_json(data):
    return IOContract.from_dict(json.loads(json.dumps(data)))


@pytest.mark.parametrize("phases", [ONE_PROFILE, TWO_PROFILES])
def test_round_trip(phases):
    contract = replace(CONTRACT, phases=phases)
    assert from_json(contract.to_dict()) == contract


def test_symbolic_dimensions_are_resolved():
    spec = TensorSpec("x", DType.FLOAT16, (BATCH, 2, SEQUENCE, 8))
    assert spec.resolve(batch=3, sequence=7) == (3, 2, 7, 8)


def test_tensors_by_name():
    assert CONTRACT.input("past_key_1").shape == (BATCH, *CACHE)
    assert CONTRACT.output("logits").dtype is DType.FLOAT32
    assert CONTRACT.cache_names == {"past_key_0", "past_value_0", "past_key_1", "past_value_1"}
    for find in (CONTRACT.input, CONTRACT.output):
        with pytest.raises(BundleError, match="engine contract has no tensor 'pixels'; compile the model again"):
            find("pixels")


@pytest.mark.parametrize(("dtype", "size"), [(DType.FLOAT32, 4), (DType.FLOAT16, 2), (DType.FP8, 1)])
def test_bytes_of_the_cache(dtype, size):
    contract = compiled(dtype=DType.FLOAT32)[1]
    contract = replace(contract, inputs=tuple(replace(t, dtype=dtype) for t in contract.inputs))
    assert contract.kv_bytes(3) == 4 * 3 * 2 * 48 * 16 * size


def test_profiles():
    context, generation = CONTRACT.profiles()
    assert (CONTEXT_PROFILE, GENERATION_PROFILE) == (0, 1)
    assert list(context) == list(generation) == [t.name for t in CONTRACT.inputs]
    assert context["input_ids"] == ShapeRange((1, 1), (1, 40), (3, 40))
    assert generation["input_ids"] == ShapeRange((1, 1), (1, 1), (3, GENERATION_TOKENS))
    for profile in (context, generation):
        assert profile["past_key_0"] == ShapeRange((1, *CACHE), (1, *CACHE), (3, *CACHE))
        assert profile["write_indices"] == ShapeRange((1,), (1,), (3,))


@pytest.mark.parametrize(("max_input_len", "opt", "generation"), [(1, 1, 1), (2, 2, 2), (128, 128, 4), (1024, 128, 4)])
def test_profiles_stay_within_the_limits(max_input_len, opt, generation):
    profiles = replace(
        CONTRACT, limits=replace(CONTRACT.limits, max_input_len=max_input_len, max_seq_len=1024)
    ).profiles()
    assert profiles[CONTEXT_PROFILE]["input_ids"] == ShapeRange((1, 1), (1, opt), (3, max_input_len))
    assert profiles[GENERATION_PROFILE]["input_ids"].max == (3, generation)


def test_a_single_profile_is_the_context_profile():
    assert replace(CONTRACT, phases=ONE_PROFILE).profiles() == CONTRACT.profiles()[:1]


@pytest.mark.parametrize("key", sorted(CONTRACT.to_dict().keys() - {"refused_ids"}))
def test_missing_fields(key):
    data = CONTRACT.to_dict()
    del data[key]
    with pytest.raises(BundleError, match=f"engine contract is malformed .*{key}.*; compile the model again"):
        from_json(data)


@pytest.mark.parametrize("key", sorted(CONTRACT.to_dict()["limits"]))
def test_missing_limits(key):
    data = CONTRACT.to_dict()
    data["limits"] = {name: value for name, value in data["limits"].items() if name != key}
    with pytest.raises(BundleError, match=f"engine contract is malformed .*{key}.*; compile the model again"):
        from_json(data)


@pytest.mark.parametrize("key", ["max_batch", "max_input_len", "max_seq_len"])
@pytest.mark.parametrize("value", ["3", 3.0, True, None, 0, -1, float("inf"), [3]], ids=repr)
def test_limits_of_wrong_types(key, value):
    with pytest.raises(BundleError, match=f"engine contract is malformed .*{key} is {re.escape(repr(value))}"):
        from_json({**CONTRACT.to_dict(), "limits": {**CONTRACT.to_dict()["limits"], key: value}})


@pytest.mark.parametrize("key", ["inputs", "outputs", "kv_cache"])
@pytest.mark.parametrize("value", [None, 3, "abc", [3], [{}], {"a": 1}], ids=repr)
def test_tensors_of_wrong_types(key, value):
    with pytest.raises(BundleError, match="engine contract is malformed"):
        from_json({**CONTRACT.to_dict(), key: value})


@pytest.mark.parametrize("value", [["batch", -1], ["width"], [0], [1.5], [None], 4, None, [[1]]], ids=repr)
def test_shapes_of_wrong_types(value):
    data = CONTRACT.to_dict()
    data["inputs"] = [{"name": "x", "dtype": "float16", "shape": value}]
    with pytest.raises(BundleError, match="engine contract is malformed"):
        from_json(data)


def test_refused_ids():
    """Older bundles have none."""
    data = CONTRACT.to_dict()
    del data["refused_ids"]
    assert IOContract.from_dict(data) == CONTRACT
    assert IOContract.from_dict({**data, "refused_ids": [1]}).refused_ids == (1,)
    for value in (1, [-1], [True], ["1"], None):
        with pytest.raises(BundleError, match=r"engine contract is malformed .*refused_ids is"):
            IOContract.from_dict({**data, "refused_ids": value})
