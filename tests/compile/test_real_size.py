"""A model of Qwen2.5-0.5B's shape, random weights, to an SM89 engine in a bundle."""

from __future__ import annotations

import pytest

from benchmarks.compile_cost import make_model
from tt_edge.bundle import Bundle
from tt_edge.compile.pipeline import compile_model
from tt_edge.config import CompileConfig, EngineTarget
from tt_edge.config.quantization import QuantConfig
from tt_edge.dtypes import DType

#: Layers of the same model written by hand on the network API (benchmarks/floor_network.py).
FLOOR_LAYERS = 1384
WEIGHTS_MB = 988


@pytest.mark.heavy
def test_qwen2_5_half_a_billion(tmp_path):
    config = CompileConfig.of(max_input_len=1024, max_seq_len=1024)
    report = compile_model(lambda: make_model("qwen2.5-0.5b"), tmp_path / "q.ttedge", config, EngineTarget(("sm89",)))
    assert report.decoder.engine_layers <= 1.2 * FLOOR_LAYERS
    assert report.decoder.weight_bytes / 1e6 == pytest.approx(
        WEIGHTS_MB, rel=0.01
    )  # each stored once, the tied head too
    matches = {p.name: p.matches for p in report.decoder.lowering.passes}
    assert (matches["insert_kv_cache"], matches["tabulate_rotary"], matches["move_logits_to_last_token"]) == (24, 48, 1)
    bundle = Bundle.open(tmp_path / "q.ttedge")
    assert bundle.verify() == []
    assert [e.compute_capability for e in bundle.manifest.engines] == ["sm89"]
    assert 900e6 < bundle.manifest.engines[0].bytes < 1100e6
    assert bundle.manifest.contract.kv_bytes(1) == 24 * 2 * 2 * 1024 * 64 * 2


@pytest.mark.heavy
def test_int4_takes_less_than_a_third_of_half_precision(tmp_path):
    """Of the linear layers, in weights.safetensors and in the engine; embedding and head, one tied matrix, stay fp16."""
    config = CompileConfig.of(max_input_len=1024, max_seq_len=1024, single_profile=True, quant=QuantConfig("int4_wo"))
    report = compile_model(lambda: make_model("qwen2.5-0.5b"), tmp_path / "q.ttedge", config, EngineTarget(("sm89",)))
    assert report.quantized == {"int4_wo": 24 * 7}
    embedding = 151936 * 896 * 2
    linear_fp16 = 2 * 24 * (896 * (896 + 128 + 128 + 896) + 3 * 896 * 4864)
    stored = Bundle.open(tmp_path / "q.ttedge").network().weight_bytes()
    assert stored[DType.INT4] == linear_fp16 / 4
    assert report.decoder.weight_bytes - embedding <= 0.30 * linear_fp16
    assert report.engines[0].bytes - embedding <= 0.30 * linear_fp16
