"""Numbers beyond fp16 are named with their layer: when weights are cast, when a model is calibrated, when it is verified."""

from __future__ import annotations

import pytest
import torch

from tests.compile.compiling import compiled
from tests.models.tiny_models import tiny_model
from tt_edge.compile.checkpoint.load import load_model
from tt_edge.compile.overflow import overflow_of
from tt_edge.compile.parity import check_parity
from tt_edge.compile.quantize.calibrate import calibrate
from tt_edge.config import Precision
from tt_edge.config.quantization import QuantConfig
from tt_edge.errors import UnsupportedModelError

IDS = torch.arange(3, 40)[None]
LAYER = "model.layers.0.mlp.down_proj"


def overflowing(dtype=torch.float16):
    model = tiny_model("llama", dtype=torch.float32)
    model.get_submodule(LAYER).weight.mul_(5e4)
    return model.to(dtype)


def test_a_weight_that_fp16_cannot_hold(tmp_path):
    model = tiny_model("llama")
    model.get_submodule(LAYER).weight[3, 5] = 1e5
    model.save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=rf"weight {LAYER}\.weight has values beyond fp16; compile with --precision bf16"
    ):
        load_model(tmp_path, Precision.FP16)
    assert load_model(tmp_path, Precision.BF16).dtype == torch.bfloat16


@pytest.mark.parametrize("format", ["fp8", "int8_sq", "int4_awq"])
def test_calibration(format):
    with pytest.raises(
        UnsupportedModelError, match=r"the output of model\.layers\.0\.\S+ \(\w+\) overflows in fp16; compile with"
    ) as e:
        calibrate(overflowing(), QuantConfig(format, group_size=32), [{"input_ids": IDS}], device="cpu")
    assert "\n" not in str(e.value)
    assert calibrate(
        overflowing(torch.bfloat16), QuantConfig(format, group_size=32), [{"input_ids": IDS}], device="cpu"
    )


def test_verify():
    model = overflowing()
    converted = compiled(model, Precision.FP16)
    report = check_parity(model, converted.network, converted.contract, Precision.FP16, new_tokens=4)
    assert not report.passed
    assert f"the output of {LAYER} (Linear) overflows in fp16; compile with --precision bf16" in report.render()


def test_a_model_that_does_not_overflow():
    assert overflow_of(tiny_model("llama", dtype=torch.float16), {"input_ids": IDS}) is None
