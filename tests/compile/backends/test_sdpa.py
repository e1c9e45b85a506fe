"""The sdpa backend against Hugging Face, with each of its caches; and an engine of each."""

from __future__ import annotations

import io

import pytest

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.compile.parity import check_parity
from tt_edge.config import Cache, Precision
from tt_edge.network.build import build_engine

CACHES = [Cache.NONE, Cache.STATIC_V1, Cache.STATIC_V2]
SLIDING = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 1,
    "layer_types": ["full_attention", "sliding_attention"],
}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(("family", "settings"), [("llama", {}), ("qwen3", {}), ("qwen2", SLIDING)])
def test_a_ragged_batch_equals_generate(family, settings, cache):
    model = tiny_model(family, **settings)
    converted = compiled(model, backend="sdpa", cache=cache)
    contract = converted.contract
    assert (contract.kv_in_place, contract.in_lockstep) == (False, cache is not Cache.NONE)
    report = check_parity(model, converted.network, contract, Precision.FP32, new_tokens=48)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0
    kinds = converted.network.kinds()
    assert kinds["ATTENTION"] == 2
    assert not {"KV_CACHE_UPDATE", "ROTARY_EMBEDDING"} & set(kinds)


@pytest.mark.parametrize("cache", CACHES)
def test_an_engine_is_built(tensorrt, cache):
    converted = compiled(tiny_model("llama"), backend="sdpa", cache=cache)
    file = io.BytesIO()
    build = build_engine(tensorrt, converted.network, converted.contract.profiles(), "sm89", file)
    assert build.bytes == file.tell() > 0


def test_inputs_and_outputs_are_the_documented_ones():
    contract = compiled(tiny_model("llama"), backend="sdpa", cache="static_v1").contract
    cache = [f"{{}}_{kind}_{layer}" for layer in (0, 1) for kind in ("key", "value")]
    assert [t.name for t in contract.inputs] == [
        "input_ids", "position_ids", "last_token_indices", "start_idx", "end_idx", *(c.format("past") for c in cache)
    ]  # fmt: skip
    assert [t.name for t in contract.outputs] == ["logits", *(c.format("present") for c in cache)]
    assert contract.input("past_key_0").shape == ("batch", 2, 128, 16)  # heads are not repeated
