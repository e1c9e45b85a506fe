"""The roofline model: costs counted by hand, a config beside the captured network, and the published figures."""

from __future__ import annotations

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from benchmarks.roofline_validation import FIGURES, MODELS, fitted, median_error, plain
from examples.driving_qa.evaluate import CHECKPOINT
from tests.models.decoders import compiled
from tests.network.reference.building import NetworkBuilder
from tt_edge.bundle import Bundle
from tt_edge.cli import main
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.roofline import DEVICES, FORMATS, Math, Step, decoder_of_config, decoder_of_network, find_device, predict
from tt_edge.roofline.operations import Kind, attention, linear
from tt_edge.roofline.predict import BANDWIDTH_ACHIEVED, HOST_S, KERNEL_S, Bound

QWEN3 = MODELS["Qwen3-0.6B"]
DECODE = Step(1, 1, 2048)


def test_a_linear_layer_counted_by_hand():
    layer = linear("l", 8, 5, weight_bytes=80, input_bytes=16, output_bytes=10, math=Math.FP16)
    assert layer.bytes(Step(2, 3, 7)) == 80 + 6 * 26
    assert layer.flops(Step(2, 3, 7)) == 6 * 2 * 8 * 5
    assert replace(layer, last_token=True).flops(Step(2, 3, 7)) == 2 * 2 * 8 * 5


def test_attention_counted_by_hand():
    layer = attention("a", heads=4, kv_heads=2, size=8, number_bytes=2, cache_bytes=1)
    step = Step(batch=1, new=3, past=5)
    pairs = sum(5 + i for i in (1, 2, 3))  # a causal mask
    assert layer.flops(step) == pairs * 2 * (2 * 4 * 8)  # scores and sums
    assert layer.bytes(step) == 3 * 2 * (4 * 8 * 2) + (5 + 3) * 2 * (2 * 8 * 1)


def test_time_is_the_longer_of_memory_and_math():
    thor = plain("thor")
    big = linear("l", 4096, 4096, weight_bytes=2 * 4096**2, input_bytes=8192, output_bytes=8192, math=Math.FP16)
    (one,), (many,) = (predict([big], thor, Step(1, new, 0)).layers for new in (1, 8192))
    assert (one.bound, many.bound) == (Bound.MEMORY, Bound.MATH)
    assert one.seconds == pytest.approx(one.bytes / (273e9 * BANDWIDTH_ACHIEVED) + KERNEL_S)
    whole = predict([big], thor, Step(1, 1, 0))
    assert whole.seconds == pytest.approx(one.seconds + HOST_S)
    assert predict([big], replace(thor, calibration=2.0), Step(1, 1, 0)).seconds == pytest.approx(2 * whole.seconds)


def test_weights_of_a_config_are_the_models():
    """Qwen3-0.6B has 596,049,920 parameters; norms (of which 28 x 2,304 + 1,024) are not counted."""
    weights = sum(operation.weight_bytes for operation in decoder_of_config(QWEN3))
    assert weights == 2 * (596_049_920 - 28 * 2304 - 1024)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The demo's checkpoint, which is a Qwen2, in fp16."""
    path = tmp_path_factory.mktemp("roofline") / "driving.ttedge"
    assert main(["compile", str(CHECKPOINT), "-o", str(path), "--engine", "none", "--max-seq-len", "128"]) == 0
    return path


@pytest.mark.parametrize("step", [Step(1, 64, 0), Step(1, 1, 64)], ids=["prefill", "decode"])
def test_a_config_costs_what_the_captured_network_costs(bundle, step):
    """The captured network writes its logits once more, as float32; nothing else differs."""
    opened = Bundle.open(str(bundle))
    captured = decoder_of_network(opened.network(), opened.manifest.contract)
    described = decoder_of_config(json.loads((CHECKPOINT / "config.json").read_bytes()))
    *matched, logits = captured
    assert [o.kind for o in matched] == [o.kind for o in described]
    assert [o.flops(step) for o in matched] == [o.flops(step) for o in described]
    assert [o.bytes(step) for o in matched[:-1]] == [o.bytes(step) for o in described[:-1]]
    assert (logits.kind, logits.bytes(step)) == (Kind.POINTWISE, 640 * (2 + 4))
    # The named layers are the model's modules.
    assert {"layers.2.self_attn.q_proj+k_proj+v_proj", "layers.2.mlp.down_proj", "lm_head"} <= {
        o.name for o in captured
    }


def test_the_command_keeps_to_the_bundles_limits(bundle, capsys):
    assert main(["profile", str(bundle), "--device", "thor"]) == 0
    assert capsys.readouterr().out.startswith("batch 1, prompts of 128 tokens; decoding with 127 tokens in the cache")
    for option, value, most in (("--past", 128, 127), ("--batch", 2, 1), ("--isl", 129, 128)):
        assert main(["profile", str(bundle), option, str(value)]) == 2
        assert f"{option} is {value}; the bundle has at most {most}" in capsys.readouterr().err


def with_a_cache():
    """A network that begins with an update of a cache, and its output."""
    b = NetworkBuilder()
    cache = b.input("past_key_0", DType.FLOAT16, (1, 2, 16, 4))
    new = b.input("new", DType.FLOAT16, (1, 2, -1, 4))
    at = b.input("write_indices", DType.INT32, (1,))
    return b, b.layer("KV_CACHE_UPDATE", [cache, new, at], DType.FLOAT16, (1, 2, 16, 4), cache_mode="LINEAR")


def test_small_matrices_of_each_token_are_moved():
    """Gemma 3n mixes its three states by coefficients of each token; scores of attention are of many tokens, and refused."""
    b, present = with_a_cache()
    states, mixed = b.input("states", DType.FLOAT16, (1, -1, 8, 3)), b.input("mixed", DType.FLOAT16, (1, -1, 3, 3))
    y = b.layer("MATRIX_MULTIPLY", [states, mixed], DType.FLOAT16, (1, -1, 8, 3), op0="NONE", op1="NONE")
    _, contract = compiled()
    (product,) = (o for o in decoder_of_network(b.output(present, y), contract) if o.kind is Kind.POINTWISE)
    assert product.token_bytes == 2 * (24 + 9 + 24)
    query = b.input("query", DType.FLOAT16, (1, 2, -1, 4))
    b.output(b.layer("MATRIX_MULTIPLY", [query, present], DType.FLOAT16, (1, 2, -1, 16), op0="NONE", op1="TRANSPOSE"))
    with pytest.raises(UnsupportedModelError, match="multiplies two activations, whose cost is not known"):
        decoder_of_network(b.network, contract)


def test_a_product_of_quantized_numbers_multiplies_in_their_type():
    """x -> FP8 and back, a weight in FP8: one product of 5 x 8 in FP8, with inputs and weights of one byte."""
    b, present = with_a_cache()
    b.input("x", DType.FLOAT16, (1, -1, 8))
    scale = b.constant(np.ones((), np.float16), "scale")
    narrow = b.layer("QUANTIZE", ["x", scale], DType.FP8, (1, -1, 8))
    x = b.layer("DEQUANTIZE", [narrow, scale], DType.FLOAT16, (1, -1, 8))
    weight = b.constant(np.ones((1, 5, 8), ml_dtypes.float8_e4m3fn), "w")
    w = b.layer("DEQUANTIZE", [weight, scale], DType.FLOAT16, (1, 5, 8))
    y = b.layer("MATRIX_MULTIPLY", [x, w], DType.FLOAT16, (1, -1, 5), op0="NONE", op1="TRANSPOSE")
    _, contract = compiled()
    operations = decoder_of_network(b.output(present, y), contract)
    (product,) = (o for o in operations if o.kind is Kind.LINEAR)
    assert (product.math, product.token_flops) == (Math.FP8, 2 * 5 * 8)
    assert (product.weight_bytes, product.token_bytes) == (5 * 8 + 2, 8 + 2 * 5)  # with one scale
    (quantizes,) = (o for o in operations if o.kind is Kind.POINTWISE)
    assert quantizes.token_bytes == 8 * 2 + 8


def test_products_in_float32_are_refused():
    network, contract = compiled()
    with pytest.raises(UnsupportedModelError, match=r"multiplies in float32.*--precision fp16"):
        decoder_of_network(network, contract)


def test_the_published_figures_are_predicted():
    assert median_error(calibrated=False) <= 0.20
    assert median_error(calibrated=True) <= 0.20


def test_factors_are_those_of_the_figures_they_are_fitted_on():
    found = {}
    for figure in filter(fitted, FIGURES):
        bare = figure.predicted(plain(figure.device))
        found[figure.device] = bare / figure.value if figure.phase == "decode" else figure.value / bare
    assert found == pytest.approx({d.name: d.calibration for d in DEVICES.values() if d.fitted_on}, abs=1e-3)
    assert all(device.calibration == 1 for device in DEVICES.values() if not device.fitted_on)


@pytest.mark.parametrize("format_name", FORMATS)
def test_fewer_bytes_decode_faster(format_name):
    thor = DEVICES["thor"]
    assert predict(decoder_of_config(QWEN3, format_name), thor, DECODE).tokens_per_s >= (
        predict(decoder_of_config(QWEN3), thor, DECODE).tokens_per_s
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not known"),
        ({"hidden_size": None}, "hidden_size None"),
        ({"num_hidden_layers": True}, "num_hidden_layers True"),
        ({"sliding_window": 512, "use_sliding_window": True}, "sliding window"),
    ],
)
def test_configs_that_are_refused(change, message):
    with pytest.raises((InvalidInputError, UnsupportedModelError), match=message):
        decoder_of_config(QWEN3 | change)


def test_names_that_are_refused():
    with pytest.raises(InvalidInputError, match="'int3' is not known; choose from fp16"):
        decoder_of_config(QWEN3, "int3")
    with pytest.raises(InvalidInputError, match="'tx1' is not known; choose from thor"):
        find_device("tx1")
    with pytest.raises(InvalidInputError, match="does not multiply in fp4"):
        predict(decoder_of_config(QWEN3, "nvfp4"), DEVICES["orin-agx"], DECODE)
    with pytest.raises(InvalidInputError, match="batch is 0"):
        Step(0, 1, 0)
