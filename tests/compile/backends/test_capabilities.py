"""A covering sample of `benchmarks/capability_matrix.py`: built by TensorRT-RTX for each compute capability that it has, or refused
with the reason. Nothing is executed."""

from __future__ import annotations

import pytest

from benchmarks.capability_matrix import GPUS, SHAPES, build_for, compile_small, config_of, results_of, table
from tests.models.tiny_models import FAMILIES
from tt_edge.config import QuantFormat


def lacks(dtype: str, first: str, *gpus: str) -> dict[str, str]:
    return {gpu: f"refused: {dtype} needs compute capability {first} or later, not {gpu}" for gpu in gpus}


BF16, INT4 = lacks("bfloat16", "sm80", "sm75"), lacks("int4", "sm80", "sm75")
FP8 = lacks("float8_e4m3fn", "sm89", "sm75", "sm80", "sm86")
FP4 = lacks("float4_e2m1fn", "sm100", *GPUS[:4])

#: Family, quantization, precision, backend: the GPUs that are refused. For all others an engine is built. A GPU that lacks
#: two of the types is refused for the precision, which stands last here.
SAMPLE = {
    ("llama", "none", "fp16", "native"): {},
    ("mistral", "none", "bf16", "sdpa"): BF16,
    ("qwen2", "fp8", "fp16", "sdpa"): FP8,
    ("qwen3", "nvfp4", "bf16", "native"): FP4 | BF16,
    ("gemma2", "none", "fp16", "native"): {},
    ("gemma3", "int8_wo", "bf16", "sdpa"): BF16,
    ("phi3", "int8_sq", "fp16", "native"): {},
    ("smollm3", "int4_awq", "bf16", "sdpa"): INT4 | BF16,
    ("gpt2", "none", "bf16", "native"): BF16,
    ("opt", "int4_wo", "fp16", "sdpa"): INT4,
}


def test_the_sample_covers_each_part_of_the_matrix():
    families, quants, precisions, backends = (set(values) for values in zip(*SAMPLE, strict=True))
    assert families == set(FAMILIES) == set(SHAPES)
    assert quants == {"none", *QuantFormat}
    assert {(p, b) for _, _, p, b in SAMPLE} == {(p, b) for p in ("fp16", "bf16") for b in ("native", "sdpa")}
    assert precisions == {"fp16", "bf16"}
    assert backends == {"native", "sdpa"}


@pytest.mark.heavy
@pytest.mark.parametrize("cell", SAMPLE, ids=" ".join)
def test_built_or_refused_with_the_reason(cell):
    family, *settings = cell
    assert results_of(family, config_of(*settings), GPUS) == {"": dict.fromkeys(GPUS, "built") | SAMPLE[cell]}


@pytest.mark.heavy
def test_a_build_for_several_gpus_is_refused_if_one_of_them_is(tmp_path):
    """Then each has a build of its own: a GPU never counts as built because another was."""
    bundle = compile_small("qwen2", config_of("none", "bf16", "native"), tmp_path / "out.ttedge")
    found = build_for(bundle, ("sm89", "sm75"))
    assert found["sm89"] == "built"
    assert found["sm75"].startswith("FAILED: tensorrt_rtx")
    assert "sm75" in found["sm75"]


def test_the_table():
    """Families that agree on every GPU share a line, and so do backends; what did not run says so."""
    no, gpus = "bfloat16 needs compute capability sm80 or later", ("sm75", "sm120")
    found = {}
    for family in ("llama", "qwen3", "opt"):
        last = "built: attention layers with a mask" if family == "opt" else "built"
        for backend in ("native", "sdpa"):
            found |= {f"{family} none fp16 {backend} sm75": "built", f"{family} none fp16 {backend} sm120": last}
            found |= {f"{family} none bf16 {backend} {gpu}": f"refused: {no}, not {gpu}" for gpu in gpus}
    del found["opt none bf16 sdpa sm120"]
    assert table(found) == [
        "| quantization | precision | families | backends | sm75 | sm120 |",
        "|---|---|---|---|---|---|",
        "| none | fp16 | all but opt | native, sdpa | built | built |",
        "| none | fp16 | opt | native, sdpa | built | built: attention layers with a mask |",
        "| none | bf16 | all | native | refused (1) | refused (1) |",
        "| none | bf16 | all but opt | sdpa | refused (1) | refused (1) |",
        "| none | bf16 | opt | sdpa | refused (1) | not run |",
        "",
        f"1. {no}",
    ]
