"""Networks of the plugin backend, rebuilt as standard TensorRT's bindings would: creators, fields, and the order of inputs."""

from __future__ import annotations

import io
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from tests.compile.backends.test_plugin_backend import VERSIONS, converted
from tests.compile.vision.test_vision_network import compiled as compiled_tower
from tt_edge.errors import EngineError
from tt_edge.network.build import build_engine
from tt_edge.network.capture import capture
from tt_edge.network.plugins import plugin_fields
from tt_edge.network.rebuild import rebuild
from tt_edge.plugins.edgellm import vit_contract
from tt_edge.plugins.edgellm.contracts import GENERATIONS, Interface
from tt_edge.tensorrt_api import TensorRT

#: With the tests of the plugin backend, which trace the same model.
pytestmark = pytest.mark.xdist_group("plugin backend")

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
