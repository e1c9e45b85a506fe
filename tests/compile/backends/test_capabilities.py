"""A covering sample of `benchmarks/capability_matrix.py`: built by TensorRT-RTX for each compute capability that it has, or refused
with the reason. Nothing is executed."""

from __future__ import annotations

import pytest

from benchmarks.capability_matrix import GPUS, build_for, compile_tiny
from tests.tiny_models import FAMILIES
from tt_edge.config import QuantFormat

BF16 = "refused: bfloat16 needs compute capability sm80 or later, not sm75"
INT4 = "refused: int4 needs compute capability sm80 or later, not sm75"
FP8 = "refused: float8_e4m3fn needs compute capability sm89 or later, not sm86"
FP4 = "refused: float4_e2m1fn needs compute capability sm100 or later, not sm89"

#: Family, quantization, precision, backend; what becomes of it by compute capability.
SAMPLE = {
    ("llama", "none", "fp16", "native"): {"sm75": "built", "sm120": "built"},
    ("mistral", "none", "bf16", "sdpa"): {"sm75": BF16, "sm80": "built"},
    ("qwen2", "fp8", "fp16", "sdpa"): {"sm86": FP8, "sm89": "built"},
    ("qwen3", "nvfp4", "bf16", "native"): {"sm89": FP4, "sm120": "built"},
    ("gemma2", "none", "fp16", "native"): {"sm121": "built"},
    ("gemma3", "int8_wo", "bf16", "sdpa"): {"sm86": "built"},
    ("phi3", "int8_sq", "fp16", "native"): {"sm80": "built"},
    ("smollm3", "int4_awq", "bf16", "sdpa"): {"sm121": "built"},
    ("gpt2", "none", "bf16", "native"): {"sm89": "built"},
    ("opt", "int4_wo", "fp16", "sdpa"): {"sm75": INT4, "sm86": "built"},
}


def test_the_sample_covers_each_part_of_the_matrix():
    families, quants, precisions, backends = (set(values) for values in zip(*SAMPLE, strict=True))
    assert families == set(FAMILIES)
    assert quants == {"none", *QuantFormat}
    assert precisions == {"fp16", "bf16"}
    assert backends == {"native", "sdpa"}
    assert {(p, b) for _, _, p, b in SAMPLE} == {(p, b) for p in precisions for b in backends}
    built = {gpu for outcomes in SAMPLE.values() for gpu, outcome in outcomes.items() if outcome.startswith("built")}
    assert built == set(GPUS)


@pytest.mark.heavy
@pytest.mark.parametrize("cell", SAMPLE, ids=" ".join)
def test_built_or_refused_with_the_reason(cell, tmp_path):
    bundle = compile_tiny(*cell, tmp_path / "out.ttedge")
    assert {gpu: build_for(bundle, gpu) for gpu in SAMPLE[cell]} == SAMPLE[cell]
