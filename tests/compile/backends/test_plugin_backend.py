"""The plugin backend: its networks against Hugging Face, in a bundle, and rebuilt on standard TensorRT's bindings."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.compile.compiling import compiled
from tests.compile.vision.test_vision_network import compiled as compiled_tower
from tests.runtime.engine.fake_session import Fake
from tests.tiny_models import tiny_model, untouched_model
from tt_edge.bundle import Bundle
from tt_edge.compile.parity import check_parity, compare_layers_with, verify_bundle
from tt_edge.compile.pipeline import compile_model
from tt_edge.config import CompileConfig, EngineTarget, PluginContract, Precision
from tt_edge.contract import CONTEXT_PROFILE, GENERATION_PROFILE, IOContract
from tt_edge.errors import EngineError, UnsupportedModelError
from tt_edge.generation_config import GenerationConfig
from tt_edge.network.build import build_engine
from tt_edge.network.capture import capture
from tt_edge.network.plugins import plugin_fields
from tt_edge.network.rebuild import rebuild
from tt_edge.plugins.edgellm import vit_contract
from tt_edge.plugins.edgellm.contracts import GENERATIONS, PAGE_TOKENS, Interface
from tt_edge.runtime.engine.reference_session import ReferenceSession
from tt_edge.runtime.scheduling.generation import generate
from tt_edge.tensorrt_api import TensorRT

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


# Standard TensorRT is not installable everywhere, so its bindings are TensorRT-RTX's own, which share the registry and
# the field classes, with what only the standard package has added by fakes.


class FakeLayer:
    def __init__(self, outputs):
        self.outputs, self.name = outputs, ""

    def get_output(self, index):
        return self.outputs[index]


class FakeNetwork:
    """A real network, and plugin layers whose outputs are further inputs of it."""

    def __init__(self, real, plugins, captured):
        self._real, self._plugins, self._captured = real, plugins, captured

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value) if name.startswith("_") else setattr(self._real, name, value)

    def _add(self, kind, inputs, plugin):
        index = sum(p["kind"] == kind for p in self._plugins)
        layer = [layer for layer in self._captured.layers if layer.kind == kind][index]
        outputs = [
            self._real.add_identity(self._real.add_input(f"fake {index} {i}", inputs[0].dtype, self._captured.tensors[n].shape))
            .get_output(0)
            for i, n in enumerate(layer.outputs)
        ]  # fmt: skip
        self._plugins.append({"kind": kind, "inputs": [t.name for t in inputs], **plugin})
        return FakeLayer(outputs)

    def add_plugin_v3(self, inputs, shape_inputs, plugin):
        assert shape_inputs == []
        return self._add("PLUGIN_V3", inputs, plugin)

    def add_plugin_v2(self, inputs, plugin):
        return self._add("PLUGIN_V2", inputs, plugin)


class FakeCreator:
    """``IPluginCreator`` or ``IPluginCreatorV3One``, with a generation's fields."""

    def __init__(self, trt, names, interface=Interface.V3):
        self.v3 = interface is Interface.V3
        self.field_names = [SimpleNamespace(name=name, type=trt.PluginFieldType.INT32) for name in names]
        self.interface_info = SimpleNamespace(kind="PLUGIN CREATOR_V3ONE" if self.v3 else "PLUGIN CREATOR_V1")

    def create_plugin(self, name, collection, *phase):
        assert bool(phase) is self.v3
        return {"name": name, "fields": {f.name: (f.type.name, np.array(f.data).tolist()) for f in collection}}


class FakeModule:
    """``tensorrt``: what is not a fake comes from the real bindings."""

    def __init__(self, real, captured, creator, name="AttentionPlugin", namespace=""):
        self.real, self.captured, self.creator, self.plugins = real, captured, creator, []
        self.registered = name, "1", namespace

    def __getattr__(self, name):
        return getattr(self.real, name)

    def Builder(self, logger):  # noqa: N802
        builder = self.real.Builder(logger)

        def create_network(flags=0):
            return FakeNetwork(builder.create_network(flags), self.plugins, self.captured)

        return SimpleNamespace(create_network=create_network, keep=builder)

    def get_plugin_registry(self):
        def get_creator(name, version, namespace):
            assert (name, version, namespace) == self.registered
            return self.creator

        return SimpleNamespace(get_creator=get_creator)


class TestRebuild:
    def rebuilt(self, tensorrt, version, creator_version=None, fields=None, registered=True):
        self.source = converted(version=version)  # owns the weights that the networks point to
        network = self.source.network
        generation = GENERATIONS[creator_version or version]
        names = fields or sorted(generation.field_names)
        creator = FakeCreator(tensorrt.module, names, generation.interface) if registered else None
        module = FakeModule(
            tensorrt.module, network, creator, GENERATIONS[version].name, GENERATIONS[version].namespace
        )
        standard = TensorRT(tensorrt.flavour, module, "11.1.0")
        return network, module, rebuild(standard, network)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_plugins_are_created_from_the_registry(self, tensorrt, version):
        network, module, built = self.rebuilt(tensorrt, version)
        layers = [layer for layer in network.layers if layer.kind.startswith("PLUGIN")]
        assert [p["name"] for p in module.plugins] == [layer.name for layer in layers]
        assert [p["inputs"] for p in module.plugins] == [layer.inputs for layer in layers]
        fields = {name: (type_.value, value.tolist()) for name, (type_, value) in plugin_fields(layers[0]).items()}
        assert module.plugins[0]["fields"] == fields
        assert fields["num_q_heads"] == ("INT32", [4])
        if version != "0.4":
            assert fields["attention_scale"] == ("FLOAT32", [0.125])
            ones = {"k_scale": [1.0], "v_scale": [1.0]} if version == "tt-edge" else {"qkv_scales": [1.0, 1.0, 1.0]}
            assert {name: fields[name] for name in ones} == {name: ("FLOAT32", value) for name, value in ones.items()}
        again = capture(tensorrt, built.network._real, "again")
        assert again.outputs == network.outputs
        want = Counter(layer.kind for layer in network.layers if not layer.kind.startswith("PLUGIN"))
        got = Counter(layer.kind for layer in again.layers)
        assert got - want == {"IDENTITY": 4}  # the fakes' own

    def test_another_generation_is_refused(self, tensorrt):
        with pytest.raises(
            EngineError, match=r"is of generation 0\.10, .*compiled for 0\.11; compile with --plugin-contract 0\.10"
        ):
            self.rebuilt(tensorrt, "0.11", "0.10")

    def test_an_unknown_contract_is_refused(self, tensorrt):
        with pytest.raises(
            EngineError, match=r"unknown contract: fields head_size, magic; supported generations are 0\.4"
        ):
            self.rebuilt(tensorrt, "0.11", fields=["magic", "head_size"])

    def test_a_missing_library_says_how_to_get_it(self, tensorrt):
        with pytest.raises(
            EngineError, match=r"no plugin AttentionPlugin .* is registered.*--plugin-path.*tensorrt-edgellm"
        ):
            self.rebuilt(tensorrt, "0.11", registered=False)

    @pytest.mark.parametrize("fields", vit_contract.FIELDS, ids=["0.9.1", "0.11"])
    def test_a_towers_plugins(self, tensorrt, fields):
        """Of the language part's own generation, or with none: the tower's plugin is recognized by its fields only."""
        network = compiled_tower("qwen2_5_vl", "fp16", "plugin")[1]
        creator = FakeCreator(tensorrt.module, sorted(fields))
        module = FakeModule(tensorrt.module, network, creator, "ViTAttentionPlugin")
        rebuild(TensorRT(tensorrt.flavour, module, "11.1.0"), network)
        layers = [layer for layer in network.layers if layer.kind == "PLUGIN_V3"]
        assert [p["inputs"] for p in module.plugins] == [layer.inputs for layer in layers]
        want = {"num_heads": ("INT32", [2]), "head_size": ("INT32", [64]), "attention_scale": ("FLOAT32", [0.125])}
        assert all(plugin["fields"] == want for plugin in module.plugins)

    def test_another_towers_plugin_is_refused(self, tensorrt):
        network = compiled_tower("qwen2_5_vl", "fp16", "plugin")[1]
        module = FakeModule(tensorrt.module, network, FakeCreator(tensorrt.module, ["magic"]), "ViTAttentionPlugin")
        with pytest.raises(
            EngineError, match=r"ViTAttentionPlugin has the fields magic, not .*--vision-attention native"
        ):
            rebuild(TensorRT(tensorrt.flavour, module, "11.1.0"), network)

    def test_rtx_refuses_with_the_plugins_name(self, tensorrt):
        if tensorrt.has_plugins:
            pytest.skip("standard TensorRT is installed")
        result = converted()
        with pytest.raises(
            EngineError, match=r"plugin AttentionPlugin, for which .* has no add_plugin_v3; build the bundle where"
        ):
            build_engine(tensorrt, result.network, result.contract.profiles(), "sm89", io.BytesIO())


def test_the_fakes_call_what_the_bindings_have(tensorrt):
    trt = tensorrt.module
    assert hasattr(trt.get_plugin_registry(), "get_creator")
    for creator in (trt.IPluginCreator, trt.IPluginCreatorV3One):
        assert all(hasattr(creator, name) for name in ("field_names", "create_plugin", "interface_info"))
    assert {"INT32", "FLOAT32", "CHAR"} <= set(trt.PluginFieldType.__members__)
    assert hasattr(trt.TensorRTPhase, "BUILD")
    (first, *_) = trt.get_plugin_registry().all_creators
    assert "CREATOR" in str(first.interface_info.kind)
