"""The search finds the layer that is wrong, or the fusion: the reference evaluator is the engine, with a fault put in."""

from __future__ import annotations

import numpy as np
import pytest

from tests.network.reference.building import NetworkBuilder
from tests.proof.engines import SHAPE, FaultyEngine, network_and_feeds
from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.proof.bisect.bisection import Bisection
from tt_edge.proof.bisect.graph import Graph
from tt_edge.proof.bisect.verdict import Verdict
from tt_edge.proof.bisect.yardstick import Yardstick


class Case:
    """A decoder of four layers in float16, its inputs, and the errors that are allowed."""

    def __init__(self) -> None:
        self.network, self.feeds = network_and_feeds()
        self.graph = Graph(self.network)
        self.yardstick = Yardstick(self.network, self.feeds, self.graph.markable)
        self.block = [layer for layer in self.network.layers if "layers.2/" in layer.name]

    def engine(self, layer: str | None, fused=(), refuses=()) -> FaultyEngine:
        return FaultyEngine(self.network, self.feeds, layer, fused, refuses)

    def search(self, engine: FaultyEngine, marks: int = 6) -> Verdict:
        return Bisection(self.network, self.yardstick, engine, ["logits"], marks).run()

    def of_kind(self, kind: str) -> list:
        """Layers of a kind in the third block, in order: products are q, k, v, o, gate, up, down."""
        return [layer for layer in self.block if layer.kind == kind]


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_every_layer_of_a_block_is_found(case):
    layers = [layer for layer in case.block if any(name in case.graph.bits for name in layer.outputs)]
    assert {layer.kind for layer in layers} >= {
        "MATRIX_MULTIPLY", "ELEMENTWISE", "ATTENTION", "ROTARY_EMBEDDING", "KV_CACHE_UPDATE", "CAST", "REDUCE", "UNARY",
        "SHUFFLE", "ACTIVATION",
    }  # fmt: skip
    for layer in layers:
        engine = case.engine(layer.name)
        verdict = case.search(engine)
        assert (verdict.fault, [found.name for found in verdict.layers]) == ("layer", [layer.name])
        assert verdict.trials == len(engine.built) <= 5
        assert max(len(marked) for marked in engine.built) <= 6, "few outputs at a time"
        assert verdict.wrong.tensor in layer.outputs
        assert all(measured.right for measured in verdict.right)


@pytest.mark.parametrize("name", ["gather_7", "model.model.layers.0/cast_8", "matrix_multiply_243", "cast_244"])
def test_layers_at_the_ends_are_found(case, name):
    verdict = case.search(case.engine(name))
    assert [layer.name for layer in verdict.layers] == [name]


def test_types_and_errors_are_named(case):
    product = case.of_kind("MATRIX_MULTIPLY")[5]
    text = case.search(case.engine(product.name)).render()
    assert text.startswith(f"the first layer that is wrong:\n  {product.name} (MATRIX_MULTIPLY)\n")
    assert f"    in   {product.inputs[0]}: float16 [-1, -1, -1]" in text
    assert f"    out  {product.outputs[0]}: float16 [-1, -1, {SHAPE.intermediate}]" in text
    assert "right before it: " in text
    assert text.endswith("engines were built")


@pytest.mark.parametrize("marks", [1, 2, 3, 20])
def test_any_number_of_marks_leads_there(case, marks):
    product = case.of_kind("MATRIX_MULTIPLY")[2]
    verdict = case.search(case.engine(product.name), marks)
    assert [layer.name for layer in verdict.layers] == [product.name]


def test_decoder_layers_are_looked_at_first(case):
    boundaries = case.graph.boundaries()
    assert len(boundaries) == SHAPE.layers
    engine = case.engine(case.of_kind("ATTENTION")[0].name)
    case.search(engine)
    assert set(engine.built[1]) <= set(boundaries)


def test_a_fusion_of_a_product_and_its_bias(case):
    """Wrong only while the product is no output of its own: the sum behind it shows it, the product never does."""
    product = case.of_kind("MATRIX_MULTIPLY")[0]
    bias = next(layer for layer in case.block if product.outputs[0] in layer.inputs)
    verdict = case.search(case.engine(bias.name, fused=product.outputs))
    assert verdict.fault == "fusion"
    assert [layer.name for layer in verdict.layers] == [product.name, bias.name]
    assert verdict.apart == (product.outputs[0],)
    text = verdict.render()
    assert f"a fusion is to blame, between {product.name} (MATRIX_MULTIPLY) and {bias.name} (ELEMENTWISE)" in text
    assert f"the result is right when one of these is an output of the engine: {product.outputs[0]}" in text


def test_horizontal_fusion_of_q_k_and_v(case):
    """As TensorRT 10.13.3 does it on Thor: V is wrong unless any of the three products is an output."""
    q, k, v = case.of_kind("MATRIX_MULTIPLY")[:3]
    fused = [q.outputs[0], k.outputs[0], v.outputs[0]]
    verdict = case.search(case.engine(v.name, fused))
    assert verdict.fault == "fusion"
    assert v.name in [layer.name for layer in verdict.layers]
    assert v.outputs[0] in verdict.apart
    assert not {layer.name for layer in verdict.layers} & {x.name for x in case.network.layers if "layers.1/" in x.name}


def test_a_fusion_of_a_whole_mlp(case):
    gate, up, down = case.of_kind("MATRIX_MULTIPLY")[4:]
    inside = [
        name
        for layer in case.block[case.block.index(gate) : case.block.index(down)]
        for name in layer.outputs
        if name in case.graph.bits
    ]
    verdict = case.search(case.engine(up.name, fused=inside))
    assert verdict.fault == "fusion"
    assert {layer.name for layer in verdict.layers} >= {gate.name, up.name, down.name}
    assert verdict.layers[-1].name == down.name
    assert set(verdict.apart) == set(inside)


def test_a_layer_that_is_wrong_only_where_its_input_is_fused_with_it(case):
    down = case.of_kind("MATRIX_MULTIPLY")[6]
    verdict = case.search(case.engine(down.name, fused=[down.inputs[0]]))
    assert verdict.fault == "fusion"
    assert [layer.name for layer in verdict.layers][-1] == down.name
    assert verdict.apart == (down.inputs[0],)


def test_marks_that_tensorrt_refuses_are_left_out(case):
    product = case.of_kind("MATRIX_MULTIPLY")[3]
    verdict = case.search(case.engine(product.name, refuses=product.outputs))
    behind = next(layer for layer in case.block if product.outputs[0] in layer.inputs)
    assert verdict.fault == "layer"
    assert [layer.name for layer in verdict.layers] == [product.name, behind.name]
    assert "one of 2 layers is wrong, between which nothing can be looked at" in verdict.render()


def test_an_engine_that_is_right(case):
    verdict = case.search(case.engine(None))
    assert (verdict.fault, verdict.layers, verdict.trials) == ("none", (), 1)
    assert (
        "the engine that was built for the search is right as far as rounding goes (logits 0.00e+00 of "
        in verdict.render()
    )


def test_an_engine_that_cannot_be_built_is_an_error(case):
    def trial(marked):
        raise EngineError("no engine")

    with pytest.raises(EngineError, match="no engine"):
        Bisection(case.network, case.yardstick, trial, ["logits"]).run()


def test_a_result_of_nan_is_wrong(case):
    engine = case.engine(None)

    def trial(marked):
        return {name: np.full_like(value, np.nan) for name, value in engine(marked).items()}

    verdict = Bisection(case.network, case.yardstick, trial, ["logits"]).run()
    assert verdict.fault == "layer"
    assert verdict.wrong.error == np.inf


def test_rounding_elsewhere_is_no_fault(case):
    """An engine that rounds nowhere: it is nearer to the truth than the reference is."""
    from tt_edge.network.reference import ReferenceEvaluator
    from tt_edge.proof.bisect.widen import widened, widened_feeds

    evaluator = ReferenceEvaluator(widened(case.network), fold_constants=False)
    wide: dict[str, np.ndarray] = {}
    evaluator.run(
        widened_feeds(case.network, case.feeds), observe=lambda _, name, value: wide.update({name: value.copy()})
    )
    measured = [case.yardstick.measure(name, wide[name]) for name in case.graph.markable]
    assert all(m.right for m in measured)
    assert max(m.error for m in measured) > 1e-3, "float16 does round"


def test_quantized_products_are_looked_at_as_a_whole():
    """Neither the quantized nor the dequantized operands are marked: that would undo the product in FP8."""
    b = NetworkBuilder()
    x = b.input("x", DType.FLOAT16, (-1, 8))
    scale = b.constant(np.array(0.1, np.float16))
    quantized = b.layer("QUANTIZE", [x, scale], DType.FP8, (-1, 8), to_type="FP8", axis=-1)
    again = b.layer("DEQUANTIZE", [quantized, scale], DType.FLOAT16, (-1, 8), to_type="HALF", axis=-1)
    weight = b.constant(np.eye(8, dtype=np.float16))
    y = b.layer("MATRIX_MULTIPLY", [again, weight], DType.FLOAT16, (-1, 8), op0="NONE", op1="NONE")
    network = b.output(b.layer("UNARY", [y], DType.FLOAT16, (-1, 8), op="NEG"))
    graph = Graph(network)
    assert graph.markable == [y, *network.outputs]
    assert [layer.kind for layer in graph.segment(y, 0)] == ["QUANTIZE", "DEQUANTIZE", "MATRIX_MULTIPLY"]
