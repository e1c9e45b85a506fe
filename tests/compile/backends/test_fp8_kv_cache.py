"""An FP8 KV cache of AttentionPlugin: calibrated, evaluated, and compared with PyTorch rounded in the same way."""

from __future__ import annotations

import pytest
import torch

from tests.models.tiny_models import tiny_model
from tt_edge.bundle import Bundle
from tt_edge.compile.checkpoint.prequantized import KVScales
from tt_edge.compile.parity import verify_bundle
from tt_edge.compile.pipeline import compile_model
from tt_edge.compile.quantize.kv_cache import calibrate_kv_cache, rounded_kv_cache, scales_of_checkpoint
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.config.quantization import QuantConfig
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError
from tt_edge.network.plugins import plugin_fields
from tt_edge.runtime.engine.reference_session import ReferenceSession

WIDE = {"hidden_size": 256, "intermediate_size": 256}
LIMITS = {"backend": "plugin", "max_batch": 2, "max_input_len": 64, "max_seq_len": 128}
BATCHES = [torch.arange(3, 67).reshape(2, 32), torch.arange(100, 140)[None]]
INPUTS = [{"input_ids": ids} for ids in BATCHES]


def model():
    return tiny_model("qwen2", dtype=torch.float16, **WIDE)


def test_scales_are_the_largest_magnitudes():
    source, seen = model(), []
    attention = source.model.layers[0].self_attn
    handle = attention.v_proj.register_forward_hook(lambda _m, _a, out: seen.append(float(out.abs().max())))
    scales = calibrate_kv_cache(source, INPUTS)
    handle.remove()
    assert len(scales) == 2
    assert scales[0][2] == pytest.approx(max(seen) / 448)
    assert calibrate_kv_cache(source, INPUTS) == scales
    assert source.config._attn_implementation == "sdpa"  # as it was


@pytest.mark.parametrize("contract", ["0.9.1", "0.10", "0.11", "tt-edge"])
def test_a_bundle_computes_what_pytorch_does_with_rounded_keys_and_values(tmp_path, contract):
    config = CompileConfig.of(kv_cache="fp8", plugin_contract=contract, **LIMITS)
    compile_model(model, tmp_path / "out.ttedge", config, EngineTarget(), batches=BATCHES)
    bundle = Bundle.open(tmp_path / "out.ttedge")
    report = verify_bundle(bundle, model(), new_tokens=12)
    assert report.passed, report.render()
    layers = [layer for layer in bundle.network().layers if layer.kind == "PLUGIN_V3"]
    fields = [plugin_fields(layer) for layer in layers]
    wanted = calibrate_kv_cache(model(), INPUTS)
    if contract == "tt-edge":
        found = [[float(f[name][1][0]) for name in ("k_scale", "v_scale")] for f in fields]
        assert found == [pytest.approx(scales[1:]) for scales in wanted]
        return
    assert [int(f["enable_fp8_kv_cache"][1][0]) for f in fields] == [1, 1]
    assert [f["qkv_scales"][1].tolist() for f in fields] == [pytest.approx(scales) for scales in wanted]


def test_the_cache_takes_a_byte_an_element(tmp_path):
    sizes = {}
    for kind in ("fp16", "fp8"):
        config = CompileConfig.of(kv_cache=kind, **LIMITS)
        compile_model(model, tmp_path / f"{kind}.ttedge", config, EngineTarget(), batches=BATCHES)
        contract = Bundle.open(tmp_path / f"{kind}.ttedge").manifest.contract
        sizes[kind] = contract.kv_bytes(2)
    assert sizes["fp8"] * 2 == sizes["fp16"]
    assert contract.input(contract.kv_cache[0].past).dtype is DType.FP8


def test_rounding_is_real(tmp_path):
    """The compiled model differs from the one that keeps its keys and values, by about what PyTorch differs."""
    config = CompileConfig.of(kv_cache="fp8", **LIMITS)
    compile_model(model, tmp_path / "out.ttedge", config, EngineTarget(), batches=BATCHES)
    bundle, source, ids = Bundle.open(tmp_path / "out.ttedge"), model(), BATCHES[1]
    session = ReferenceSession(bundle.network(), bundle.manifest.contract)
    session.reset(1)
    ours = torch.from_numpy(session.forward(ids.numpy(), [ids.shape[1]]).copy())
    plain = source(ids).logits[:, -1].float()
    with rounded_kv_cache(source, calibrate_kv_cache(source, INPUTS)):
        rounded = source(ids).logits[:, -1].float()
    assert (ours - rounded).norm() < 0.3 * (ours - plain).norm()


def test_with_quantized_layers(tmp_path):
    config = CompileConfig.of(kv_cache="fp8", quant=QuantConfig("int4_wo"), **LIMITS)
    compile_model(model, tmp_path / "out.ttedge", config, EngineTarget(), batches=BATCHES)
    report = verify_bundle(Bundle.open(tmp_path / "out.ttedge"), model(), new_tokens=8)
    assert report.passed, report.render()


def test_without_data(tmp_path):
    with pytest.raises(InvalidInputError, match="an FP8 KV cache needs calibration data"):
        compile_model(model, tmp_path / "out.ttedge", CompileConfig.of(kv_cache="fp8", **LIMITS), EngineTarget())
    assert not list(tmp_path.iterdir())


def test_scales_of_a_checkpoint_are_in_the_order_of_its_layers():
    found = {f"model.layers.{i}.self_attn": KVScales(i / 2, i / 4) for i in (10, 2)}
    scales = scales_of_checkpoint(found, 11)
    assert (scales[0], scales[2], scales[10]) == ((1.0, 1.0, 1.0), (1.0, 1.0, 0.5), (1.0, 5.0, 2.5))
