"""Types of an engine's layers, read from the JSON that TensorRT's engine inspector gives.

The JSON below has the form that TensorRT 10 writes: ``Format/Datatype`` is ``Half`` without an execution context and ``Row major
linear FP16 format`` with one; products of transformers are of type ``gemm``; ``Metadata`` keeps the network's layers apart.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.network.reference.building import NetworkBuilder
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Network
from tt_edge.proof.precision import compare_precision, parse_layers, type_of


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("Half", DType.FLOAT16),
        ("Float", DType.FLOAT32),
        ("BFloat16", DType.BFLOAT16),
        ("FP8", DType.FP8),
        ("FP4", DType.FP4),
        ("Int8", DType.INT8),
        ("UInt8", DType.UINT8),
        ("Int64", DType.INT64),
        ("Row major linear FP16 format", DType.FLOAT16),
        ("Row major linear FP32", DType.FLOAT32),
        ("Channel major FP16 format where channel % 8 == 0", DType.FLOAT16),
        ("Thirty-two wide channel vectorized row major Int8 format", DType.INT8),
        ("Row major linear BF16 format", DType.BFLOAT16),
        ("Unknown format", None),
        ("", None),
    ],
)
def test_types(text, dtype):
    assert type_of(text) is dtype


def quantized_network() -> tuple[Network, dict[str, int]]:
    """Three products: in FP8 on either side, in float16, and with INT4 weights only; and the places of its layers."""
    b = NetworkBuilder()
    x = b.input("x", DType.FLOAT16, (-1, 8))
    scale = b.constant(np.array(0.1, np.float16))
    fp8 = b.layer("QUANTIZE", [x, scale], DType.FP8, (-1, 8), to_type="FP8", axis=-1)
    left = b.layer("DEQUANTIZE", [fp8, scale], DType.FLOAT16, (-1, 8), to_type="HALF", axis=-1)
    weight8 = b.layer("QUANTIZE", [b.constant(np.eye(8, dtype=np.float16)), scale], DType.FP8, (8, 8), axis=-1)
    right = b.layer("DEQUANTIZE", [weight8, scale], DType.FLOAT16, (8, 8), to_type="HALF", axis=-1)
    y = b.layer("MATRIX_MULTIPLY", [left, right], DType.FLOAT16, (-1, 8), op0="NONE", op1="NONE")
    z = b.layer(
        "MATRIX_MULTIPLY", [y, b.constant(np.eye(8, dtype=np.float16))], DType.FLOAT16, (-1, 8), op0="NONE", op1="NONE"
    )
    packed = b.constant(np.zeros(32, np.uint8), shape=(8, 8))
    b.network.tensors[packed] = type(b.network.tensors[packed])(packed, DType.INT4, (8, 8))
    wide = b.layer("DEQUANTIZE", [packed, scale], DType.FLOAT16, (8, 8), to_type="HALF", axis=0)
    wide = b.layer("SHUFFLE", [wide], DType.FLOAT16, (8, 8))
    network = b.output(b.layer("MATRIX_MULTIPLY", [z, wide], DType.FLOAT16, (-1, 8), op0="NONE", op1="NONE"))
    products = [index for index, layer in enumerate(network.layers) if layer.kind == "MATRIX_MULTIPLY"]
    int4 = max(index for index, layer in enumerate(network.layers) if layer.kind == "DEQUANTIZE")
    return network, dict(zip(("fp8", "half", "int4"), products, strict=True)) | {"dequantize": int4}


def engine(*layers: dict) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["x"]})


def gemm(origins: list[int], reads: list[str], writes: str = "Half", **more) -> dict:
    return {
        "Name": f"__myl_Fc_myl0_{origins[0]}",
        "LayerType": "gemm",
        "Inputs": [{"Name": "a", "Dimensions": [1, 8], "Format/Datatype": text} for text in reads],
        "Outputs": [{"Name": "b", "Dimensions": [1, 8], "Format/Datatype": writes}],
        "TacticName": "sm100_xmma_gemm",
        "StreamId": 0,
        "Metadata": "\x1f".join(f"tt-edge:{index};" for index in origins),
    } | more


def test_an_engine_as_asked():
    network, at = quantized_network()
    text = engine(
        gemm([at["fp8"]], ["FP8", "FP8"]),
        gemm([at["half"]], ["Half"], Weights={"Type": "Half", "Count": 64}),
        gemm([at["int4"], at["dequantize"]], ["Half"], Weights={"Type": "Int4", "Count": 64}),
    )
    report = compare_precision(network, parse_layers(text, network))
    assert report.passed
    assert (report.products, report.found, report.apart) == (3, 3, 0)
    assert report.asked == {"float8_e4m3fn x float8_e4m3fn": 1, "float16 x float16": 1, "float16 x int4": 1}
    assert report.render().startswith("precision: 3 of 3 products recognized in the engine (")


def test_fp8_that_became_fp32():
    network, at = quantized_network()
    text = engine(
        gemm([at["fp8"]], ["Row major linear FP32", "Row major linear FP32"], "Row major linear FP32"),
        gemm([at["half"]], ["Half", "Half"]),
    )
    report = compare_precision(network, parse_layers(text, network))
    assert not report.passed
    (found,) = report.mismatches
    assert (found.layer, found.asked, found.built) == (
        network.layers[at["fp8"]].name,
        "float8_e4m3fn x float8_e4m3fn",
        "float32",
    )
    assert (report.products, report.found) == (3, 2), "what is not recognized is not judged"
    assert "asked float8_e4m3fn x float8_e4m3fn, built float32 (__myl_Fc_myl0_" in report.render()


def test_half_precision_that_became_fp32():
    network, at = quantized_network()
    report = compare_precision(network, parse_layers(engine(gemm([at["half"]], ["Float", "Float"])), network))
    assert [found.asked for found in report.mismatches] == ["float16 x float16"]


def test_weights_that_are_dequantized_before_the_product():
    network, at = quantized_network()
    text = engine(gemm([at["int4"]], ["Half", "Half"]), gemm([at["dequantize"]], ["Int4", "Half"]))
    report = compare_precision(network, parse_layers(text, network))
    assert (report.passed, report.apart) == (True, 1)
    assert "1 products read weights that another layer of the engine dequantizes" in report.render()


def test_layers_without_our_metadata_are_found_by_name():
    network, at = quantized_network()
    names = " + ".join(network.layers[at[key]].name for key in ("half", "int4"))
    layer = {**gemm([0], ["Float", "Float"]), "Name": names, "Metadata": ""}
    report = compare_precision(network, parse_layers(engine(layer), network))
    assert report.found == 2


def test_an_engine_that_has_names_only():
    network, _ = quantized_network()
    assert parse_layers('{"Layers": ["a", "b"], "Bindings": []}', network) is None


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Layers": 3}', '{"Layers": [{}]}', '{"Layers": [{"Name": "a", "Inputs": [1]}]}']
)
def test_what_is_not_understood(text):
    network, _ = quantized_network()
    with pytest.raises(EngineError, match="says what is not understood"):
        parse_layers(text, network)
