"""The plugin backend: its networks against Hugging Face, and in a bundle. ``test_plugin_rebuild`` builds them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model, untouched_model
from tests.runtime.engine.fake_session import Fake
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import check_parity, compare_layers_with, verify_bundle
from tt_edge.compile.pipeline import compile_model
from tt_edge.config import CompileConfig, EngineTarget, PluginContract, Precision
from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE, IOContract
from tt_edge.errors import EngineError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.plugins.edgellm.contracts import GENERATIONS, PAGE_TOKENS
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate

#: All in one process, which traces each model once.
pytestmark = pytest.mark.xdist_group("plugin backend")

VERSIONS = list(PluginContract)
#: The plugin's smallest head size; Qwen2 derives it from the hidden size.
SIZES = {"llama": {"head_dim": 64}, "qwen3": {"head_dim": 64}, "qwen2": {"hidden_size": 256}}


def model(family="llama", **settings):
    return tiny_model(family, **{**SIZES[family], **settings})


def converted(family="llama", version="0.11", **settings):
    return compiled(model(family), backend="plugin", plugin_contract=version, **settings)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("family", SIZES)
def test_a_ragged_batch_and_one_row_equal_generate(family, version):
    source = model(family)
    result = compiled(source, backend="plugin", plugin_contract=version, max_batch=2)
    report = check_parity(source, result.network, result.contract, Precision.FP32, new_tokens=48)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0
    assert report.relative_error < 1e-5
    kind = "PLUGIN_V2" if version == "0.4" else "PLUGIN_V3"
    assert result.network.kinds()[kind] == 2
    assert not {"ATTENTION", "KV_CACHE_UPDATE", "ROTARY_EMBEDDING"} & set(result.network.kinds())


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision(version):
    source = model(dtype=torch.float16)
    result = compiled(source, Precision.FP16, backend="plugin", plugin_contract=version, max_batch=1)
    report = check_parity(source, result.network, result.contract, Precision.FP16, new_tokens=8)
    assert report.passed, report.render()


@pytest.mark.parametrize(
    ("family", "settings", "precision"),
    [
        ("gemma2", {"head_dim": 64}, Precision.FP32),  # softcap, windows, a scale of its own
        ("llama", {"head_dim": 80}, Precision.FP16),
        ("llama", {"head_dim": 96}, Precision.BF16),
    ],
    ids=["softcap", "head size 80", "bf16 and head size 96"],
)
def test_what_only_our_own_plugin_has(family, settings, precision):
    source = tiny_model(family, dtype=getattr(torch, precision.dtype.value), **settings)
    result = compiled(source, precision, backend="plugin", plugin_contract="tt-edge", max_batch=2)
    report = check_parity(source, result.network, result.contract, precision, new_tokens=16)
    assert report.passed, report.render()


def test_a_whole_model_with_attention_sinks():
    """Granite SWA is dense, and has GPT-OSS's attention: sinks, and a sliding window in every other layer."""
    layers = ["full_attention", "sliding_attention"]
    source = untouched_model("GraniteSWA", hidden_size=256, sliding_window=8, layer_types=layers)
    for name, parameter in source.named_parameters():
        if name.endswith("sinks"):
            parameter.normal_(0.0, 2.0)
    result = compiled(source, backend="plugin", plugin_contract="tt-edge", max_batch=2)
    plugins = [layer for layer in result.network.layers if layer.kind == "PLUGIN_V3"]
    assert [len(layer.inputs) for layer in plugins] == [6, 6]  # the last is the sinks
    report = check_parity(source, result.network, result.contract, Precision.FP32, new_tokens=24)
    assert report.passed, report.render()
    assert sum(row.ties + row.mismatches for row in report.rows) == 0


@pytest.mark.parametrize("version", [v for v in VERSIONS if GENERATIONS[v].has_sliding_window])
def test_sliding_windows(version):
    source = model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1,
                   layer_types=["full_attention", "sliding_attention"])  # fmt: skip
    result = compiled(source, backend="plugin", plugin_contract=version)
    report = check_parity(source, result.network, result.contract, Precision.FP32, new_tokens=24)
    assert report.passed, report.render()


@pytest.mark.parametrize("version", VERSIONS)
def test_prompts_in_pieces_and_rows_of_several_pages(version):
    """Chunked prefill behind a cache of more than one page; max_input_len is shorter than the prompts."""
    source = model()
    result = compiled(source, backend="plugin", plugin_contract=version, max_seq_len=200, max_input_len=32)
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 320, n).tolist() for n in (150, 40)]
    with ReferenceSession(result.network, result.contract) as session:
        got = [r.new_token_ids for r in generate(session, prompts, GenerationConfig(8, ignore_eos=True))]
    for prompt, tokens in zip(prompts, got, strict=True):
        want = source.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
        assert tokens == want[0, len(prompt) :].tolist()


def test_a_wrong_layer_is_found():
    source = model()
    result = compiled(source, backend="plugin", plugin_contract="0.11")
    weights = dict(result.network.weights)
    key = "model.layers.1.mlp.up_proj.weight"
    weights[key] = np.array(weights[key]) * 1.01
    network = replace(result.network, weights=weights)
    comparison = compare_layers_with(source, network, result.contract, list(range(3, 40)), 1e-4)
    assert "layers.1.mlp.up_proj" in comparison.first_over.layer


@pytest.mark.parametrize("version", VERSIONS)
def test_the_captured_layer(version):
    network = converted(version=version).network
    generation = GENERATIONS[version]
    first, second = [layer for layer in network.layers if layer.kind.startswith("PLUGIN")]
    assert (len(first.inputs), len(first.outputs)) == (len(generation.inputs), 2)
    assert first.outputs[1] == "present_key_values_0"
    assert second.inputs[generation.input_names.index("past_key_values")] == "past_key_values_1"
    assert [first.attributes[k] for k in ("plugin", "version", "namespace", "generation")] == [
        generation.name, "1", generation.namespace, version
    ]  # fmt: skip
    assert first.attributes["INT32.num_q_heads"] == 4
    assert "layers.0.self_attn" in first.name
    assert not any("stand-in" in name for name in (*network.inputs, *network.tensors))
    cache = network.tensors["past_key_values_0"]
    assert network.tensors["present_key_values_0"].shape == cache.shape
    assert cache.shape == ((2, 3, PAGE_TOKENS, 2, 64) if generation.paged else (-1, 2, 2, 128, 64))


class TestContract:
    def test_profiles(self):
        contract = converted(version="0.10").contract
        context, generation = contract.profiles()
        assert context["kvcache_start_index"].min == context["kvcache_start_index"].opt == (0,)
        assert context["kvcache_start_index"].max == generation["kvcache_start_index"].max == (3,)
        assert generation["kvcache_start_index"].opt == (1,)
        assert context["past_key_values_0"].min == context["past_key_values_0"].max == (2, 3, PAGE_TOKENS, 2, 64)
        assert context["kv_page_table"].max == (3, 2, 1)
        assert contract.kv_bytes(1) == 2 * 2 * 3 * PAGE_TOKENS * 2 * 64 * 4  # layers, K and V, pages …, float32

    def test_profiles_of_ragged_tokens(self):
        context, generation = converted(version="0.11").contract.profiles()
        assert [context["execution_phase_marker"].opt, generation["execution_phase_marker"].opt] == [(1,), (3,)]
        assert [context["context_sequence_count_carrier"].opt, generation["context_sequence_count_carrier"].opt] == [
            (1,), (0,)
        ]  # fmt: skip
        assert context["query_start_offsets"] == generation["query_start_offsets"]
        assert (context["query_start_offsets"].min, context["query_start_offsets"].max) == ((2,), (4,))

    @pytest.mark.parametrize("version", VERSIONS)
    def test_round_trip(self, version):
        contract = converted(version=version).contract
        assert IOContract.from_dict(contract.to_dict()) == contract
        assert contract.kv_in_place
        assert [(p.past, p.present) for p in contract.kv_cache] == [
            ("past_key_values_0", "present_key_values_0"), ("past_key_values_1", "present_key_values_1")
        ]  # fmt: skip


class TestBundle:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_round_trip(self, tmp_path, version):
        source = model(dtype=torch.float16)
        config = CompileConfig.of(
            backend="plugin", max_batch=2, max_input_len=64, max_seq_len=96, plugin_contract=version
        )
        report = compile_model(lambda: source, tmp_path / "m.ttedge", config, EngineTarget())
        assert "engine   none: build where standard TensorRT and the plugin library are" in report.render()
        bundle = Bundle.open(tmp_path / "m.ttedge")
        assert bundle.manifest.config == config
        assert verify_bundle(bundle, source, new_tokens=8).passed

    def test_float32_is_not_for_deployment(self, tmp_path):
        config = CompileConfig.of(backend="plugin", precision="fp32", max_seq_len=96, max_input_len=64)
        with pytest.raises(
            UnsupportedModelError, match=r"fp16 only, and precision is fp32; compile with --precision fp16"
        ):
            compile_model(model, tmp_path / "m.ttedge", config, EngineTarget())
        assert not (tmp_path / "m.ttedge").exists()

    def test_rtx_builds_no_such_engine(self, tensorrt, tmp_path):
        if tensorrt.has_plugins:
            pytest.skip("standard TensorRT is installed")
        config = CompileConfig.of(backend="plugin", max_seq_len=96, max_input_len=64)
        with pytest.raises(
            EngineError, match=r"builds no engines with plugins; build where standard TensorRT .*--backend native"
        ):
            compile_model(model, tmp_path / "m.ttedge", config, EngineTarget(("sm89",)))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_tensorrt_session_feeds_what_the_reference_gets(monkeypatch, tmp_path, version):
    """Shapes within the profiles, one address for past and present, rows that start and end at different times."""
    result = converted(version=version)
    fake = Fake(monkeypatch, tmp_path, result.network, result.contract)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 320, n).tolist() for n in (3, 17, 1)]
    config = GenerationConfig(6, ignore_eos=True)
    with fake.open() as session:
        got = [r.new_token_ids for r in generate(session, prompts, config)]
        again = [r.new_token_ids for r in generate(session, prompts[:1], config)]
    with ReferenceSession(result.network, result.contract) as session:
        want = [r.new_token_ids for r in generate(session, prompts, config)]
    assert got == want
    assert again == want[:1]
    assert set(fake.engine.executed) == {CONTEXT_PROFILE, GENERATION_PROFILE}  # the prompt of 17 needs the first
