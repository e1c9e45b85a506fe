"""INT4 linear layers as Int4GroupwiseGemmPlugin: the graph before and after, and the numbers of the whole model."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.fx import GraphModule

from tests.compile.checkpoint.prequantized import packing
from tests.compile.checkpoint.prequantized.packing import write_model
from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_checkpoint, compile_model
from tt_edge.compile.quantize.layers import quantize_model
from tt_edge.config import Backend, CompileConfig, EngineTarget
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import InvalidInputError
from tt_edge.lowering.base import LoweringContext
from tt_edge.lowering.plugin.insert_int4_plugin import InsertInt4Plugin
from tt_edge.network.plugins import plugin_fields
from tt_edge.plugins.edgellm.contracts import GENERATIONS
from tt_edge.plugins.edgellm.int4_packing import NAME, plugin_of

#: Heads of 64 elements, and widths that are multiples of 128.
WIDE = {"hidden_size": 256, "intermediate_size": 384}
LIMITS = {"max_batch": 2, "max_input_len": 64, "max_seq_len": 128}


def model(**settings):
    return tiny_model("qwen2", dtype=torch.float16, **WIDE, **settings)


def bundle_of(path, quant="int4_wo", batches=(), **settings):
    config = CompileConfig.of(backend="plugin", quant=QuantConfig(quant), **LIMITS, **settings)
    compile_model(model, path, config, EngineTarget(), batches=batches)
    return Bundle.open(path)


def plugins(network):
    return Counter(str(layer.attributes["plugin"]) for layer in network.layers if layer.kind.startswith("PLUGIN"))


def test_the_pass():
    """Before: quantized linears. After: plugins, and sums for biases; the same numbers."""
    source = model().float()
    quantize_model(source, QuantConfig("int4_wo"), {})
    config = CompileConfig.of(backend="plugin", precision="fp32", **LIMITS)
    graph = DecoderCompiler(source, config).export()
    ids, positions = torch.arange(3, 20)[None], torch.arange(17)[None]
    before = graph(ids, positions)
    config = CompileConfig.of(backend="plugin", precision="fp32", **LIMITS)
    record = InsertInt4Plugin()(graph, LoweringContext(config, 2))
    after = GraphModule(graph, graph.graph)(ids, positions)
    assert record.matches == 14
    counts = Counter(n.target for n in graph.graph.nodes if n.op == "call_function")
    assert torch.ops.tt_edge.quantized_linear.default not in counts
    assert counts[torch.ops.tt_edge.int4_groupwise_gemm.default] == 14
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("quant", "contract"),
    [("int4_wo", "0.4"), ("int4_awq", "0.4"), ("int4_wo", "0.11"), ("int4_awq", "0.11"), ("int4_wo", "tt-edge")],
)
def test_a_bundle_computes_what_the_quantized_model_does(tmp_path, quant, contract):
    batches = [torch.randint(3, 300, (2, 32))] if quant == "int4_awq" else []
    bundle = bundle_of(tmp_path / "out.ttedge", quant, batches, plugin_contract=contract)
    network = bundle.network()
    name = plugin_of(contract)[0]
    assert plugins(network) == {GENERATIONS[contract].name: 2, name: 14}
    assert {layer.kind for layer in network.layers if layer.kind.startswith("PLUGIN")} == {
        "PLUGIN_V2" if contract == "0.4" else "PLUGIN_V3"
    }
    report = verify_bundle(bundle, model(), new_tokens=8)
    assert report.passed, report.render()
    layer = next(layer for layer in network.layers if layer.attributes.get("plugin") == name)
    fields = {name: int(value[0]) for name, (_, value) in plugin_fields(layer).items()}
    assert fields == {"gemm_n": 256, "gemm_k": 256, "group_size": 128}
    shapes = [network.tensors[name].shape for name in layer.inputs[1:]]
    assert shapes == [(128, 256), (2, 256)]


def test_out_of_the_box_on_request(tmp_path):
    bundle = bundle_of(tmp_path / "out.ttedge", int4_gemm="ootb")
    assert plugins(bundle.network()) == {"AttentionPlugin": 2}
    assert verify_bundle(bundle, model(), new_tokens=4).passed


def weight_bytes(bundle):
    return sum(array.nbytes for array in bundle.weights().values())


def test_both_ways_take_half_a_byte_an_element(tmp_path):
    config = CompileConfig.of(backend="plugin", **LIMITS)
    compile_model(model, tmp_path / "fp16.ttedge", config, EngineTarget())
    half = weight_bytes(Bundle.open(tmp_path / "fp16.ttedge"))
    elements = sum(module.weight.numel() for name, module in model().named_modules() if name.endswith("_proj"))
    for how in ("plugin", "ootb"):
        linear = weight_bytes(bundle_of(tmp_path / f"{how}.ttedge", int4_gemm=how)) - (half - 2 * elements)
        assert 0.5 * elements < linear < 0.53 * elements  # with a scale for each 128


def test_other_groups_stay_out_of_the_box(tmp_path):
    config = CompileConfig.of(backend="plugin", quant=QuantConfig("int4_wo", group_size=64), **LIMITS)
    compile_model(model, tmp_path / "out.ttedge", config, EngineTarget())
    assert plugins(Bundle.open(tmp_path / "out.ttedge").network()) == {"AttentionPlugin": 2}


def test_a_checkpoint_of_gptq(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "GROUP", 128)
    (tmp_path / "model").mkdir()
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "checkpoint_format": "gptq"}
    write_model(tmp_path / "model", tiny_model("qwen2", **WIDE), settings, lambda n, k: packing.gptq(n=n, k=k))
    config = CompileConfig.of(backend="plugin", **LIMITS)
    compile_checkpoint(str(tmp_path / "model"), tmp_path / "out.ttedge", config, EngineTarget(), progress=False)
    bundle = Bundle.open(tmp_path / "out.ttedge")
    assert plugins(bundle.network())[NAME] == 14
    report = verify_bundle(bundle, tmp_path / "model", new_tokens=8)
    assert report.passed, report.render()


@pytest.mark.parametrize("backend", ["native", "sdpa"])
def test_other_backends_have_no_plugin(backend):
    assert CompileConfig.of(backend=backend).quantization.int4_gemm == "ootb"
    assert CompileConfig.of(backend=Backend.PLUGIN).quantization.int4_gemm == "plugin"
    with pytest.raises(
        InvalidInputError, match=f"int4_gemm plugin is not for backend {backend}; give --backend plugin"
    ):
        CompileConfig.of(backend=backend, int4_gemm="plugin")


def test_an_unknown_way():
    with pytest.raises(InvalidInputError, match="int4_gemm 'magic' is unknown; choose one of plugin, ootb"):
        CompileConfig.of(int4_gemm="magic")
