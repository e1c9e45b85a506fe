"""Each rewrite before and after, what it must not change, and the results, which stay equal bit for bit."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from tests.network.reference.building import (
    DecoderShape,
    NetworkBuilder,
    decoder,
    decoder_feeds,
    step_feeds,
)
from tt_edge.dtypes import DType
from tt_edge.network.ir import Network
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.simplify import Simplified, simplify
from tt_edge.network.storage import network_json, parse_network

F32, F16, I64 = DType.FLOAT32, DType.FLOAT16, DType.INT64
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def simplified(network: Network, feeds: dict[str, np.ndarray] | None = None) -> tuple[Network, Simplified]:
    """A tidied copy of ``network``, checked to be whole and to compute the same."""
    tidy = copy.deepcopy(network)
    report = simplify(tidy)
    assert len(network.layers) - len(tidy.layers) == report.identities + report.duplicates + report.unused
    assert (tidy.inputs, tidy.outputs) == (network.inputs, network.outputs)
    assert len({layer.name for layer in tidy.layers}) == len(tidy.layers)
    parse_network(json.loads(network_json(tidy)))  # every reference and every tensor
    for name in (*network.inputs, *network.outputs):
        assert tidy.tensors[name] == network.tensors[name]
    feeds = feeds if feeds is not None else {name: random(network, name) for name in network.inputs}
    before, after = (ReferenceEvaluator(n).run(copy.deepcopy(feeds)) for n in (network, tidy))
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
        assert after[name].dtype == value.dtype
    assert simplify(tidy) == Simplified(0, 0, 0, 0)
    return tidy, report


def random(network: Network, name: str) -> np.ndarray:
    tensor = network.tensors[name]
    shape = [2 if size == -1 else size for size in tensor.shape]
    return np.random.default_rng(0).standard_normal(shape).astype(tensor.dtype.numpy)


def kinds(network: Network) -> list[str]:
    return [layer.kind for layer in network.layers]


def shuffle(b: NetworkBuilder, x: str, shape, first=None, dims=None, second=None):
    """A shuffle of output ``shape``; permutations of eight entries, as TensorRT gives them."""
    padded = [[*order, *range(len(order), 8)] if order else list(range(8)) for order in (first, second)]
    return b.layer(
        "SHUFFLE", [x], b.network.tensors[x].dtype, shape, first_transpose=padded[0],
        reshape_dims=list(shape if dims is None else dims), second_transpose=padded[1], zero_is_placeholder=False,
    )  # fmt: skip


def add(b: NetworkBuilder, x: str, y: str):
    return b.layer("ELEMENTWISE", [x, y], b.network.tensors[x].dtype, b.network.tensors[x].shape, op="SUM")


def cast(b: NetworkBuilder, x: str, dtype: DType):
    return b.layer("CAST", [x], dtype, b.network.tensors[x].shape, to_type=dtype.value)


@pytest.fixture
def b():
    builder = NetworkBuilder()
    builder.input("x", F32, (-1, 3, 4))
    return builder


class TestReshapedConstants:
    def test_the_constant_takes_the_shape(self, b):
        reshaped = shuffle(b, b.constant(WEIGHT, "w"), (1, 3, 4))
        network, report = simplified(b.output(add(b, "x", reshaped)))
        assert report == Simplified(1, 0, 0, 1)
        assert kinds(network) == ["CONSTANT", "ELEMENTWISE"]
        constant, tensor = next(network.constants())
        assert (constant.name, constant.attributes) == ("constant_0", {"weights": "w", "shape": [1, 3, 4]})
        assert tensor.shape == (1, 3, 4)
        assert network.weights["w"] is not None

    def test_of_two_shapes_over_one_weight(self, b):
        weight = b.constant(WEIGHT, "w")
        one, two = shuffle(b, weight, (1, 3, 4)), shuffle(b, weight, (1, 12))
        y = add(b, "x", one)
        flat = shuffle(b, y, (-1, 12))
        network, report = simplified(b.output(add(b, flat, two)))
        assert (report.reshaped_constants, report.unused) == (2, 1)
        shapes = {layer.name: layer.attributes["shape"] for layer, _ in network.constants()}
        assert shapes["constant_0"] == [1, 3, 4]
        assert sorted(shapes.values()) == [[1, 3, 4], [1, 12]]
        assert {layer.attributes["weights"] for layer, _ in network.constants()} == {"w"}

    def test_chained(self, b):
        weight = b.constant(WEIGHT, "w")
        reshaped = shuffle(b, shuffle(b, weight, (12,)), (1, 3, 4))
        network, _ = simplified(b.output(add(b, "x", reshaped)))
        assert kinds(network) == ["CONSTANT", "ELEMENTWISE"]

    def test_other_users_and_outputs_keep_the_first_shape(self, b):
        weight = b.constant(WEIGHT.reshape(1, 3, 4), "w")
        one = add(b, "x", weight)
        two = add(b, shuffle(b, one, (-1, 12)), shuffle(b, weight, (1, 12)))
        network, report = simplified(b.output(two, one, weight))
        assert (report.reshaped_constants, report.unused) == (1, 0)
        assert sorted(layer.attributes["shape"] for layer, _ in network.constants()) == [[1, 3, 4], [1, 12]]

    def test_that_are_outputs_keep_their_names(self, b):
        reshaped = shuffle(b, b.constant(WEIGHT, "w"), (4, 3))
        network, report = simplified(b.output(add(b, "x", "x"), reshaped))
        assert report.reshaped_constants == 1
        assert network.outputs[1] == reshaped

    @pytest.mark.parametrize(("order", "size"), [([1, 0], (3, 4)), ([0, 2, 1], (1, 3, 4))])
    def test_a_transpose_of_the_data_stays(self, b, order, size):
        weight = b.constant(WEIGHT.reshape(size), "w")
        turned = tuple(size[axis] for axis in order)
        first = shuffle(b, weight, turned, first=order, dims=turned)
        second = shuffle(b, weight, turned, dims=size, second=order)
        network, report = simplified(b.output(add(b, "x", "x"), first, second))
        assert report == Simplified(0, 0, 0, 0)
        assert kinds(network).count("SHUFFLE") == 2

    def test_a_transpose_of_dimensions_of_one_element_is_a_reshape(self, b):
        weight = b.constant(WEIGHT.reshape(3, 1, 4), "w")
        network, report = simplified(
            b.output(add(b, "x", shuffle(b, weight, (1, 3, 4), first=[1, 0, 2], dims=(1, 3, 4))))
        )
        assert report.reshaped_constants == 1
        assert "SHUFFLE" not in kinds(network)

    def test_a_shape_known_only_at_run_time_stays(self, b):
        shape = b.layer("SHAPE", ["x"], I64, (3,))
        tail = b.layer("SLICE", [shape], I64, (2,), start=[1], shape=[2], stride=[1], mode="STRICT_BOUNDS")
        weight = b.constant(WEIGHT.reshape(-1), "w")
        reshaped = b.layer("SHUFFLE", [weight, tail], F32, (-1, -1), zero_is_placeholder=False)
        network, report = simplified(b.output(reshaped))
        assert report.reshaped_constants == 0
        assert "SHUFFLE" in kinds(network)


class TestIdentities:
    def test_vanish(self, b):
        y = cast(b, "x", F32)
        y = b.layer("IDENTITY", [y], F32, (-1, 3, 4))
        y = shuffle(b, y, (-1, 3, 4))
        network, report = simplified(b.output(add(b, y, y)))
        assert report == Simplified(0, 3, 0, 0)
        assert [layer.inputs for layer in network.layers] == [["x", "x"]]

    def test_that_make_outputs_stay(self, b):
        network, report = simplified(b.output(cast(b, "x", F32), b.layer("IDENTITY", ["x"], F32, (-1, 3, 4))))
        assert report == Simplified(0, 0, 0, 0)
        assert kinds(network) == ["CAST", "IDENTITY"]

    def test_an_output_that_is_read_on_stays_and_the_next_vanishes(self, b):
        first = cast(b, "x", F32)
        second = cast(b, first, F32)
        network, report = simplified(b.output(first, add(b, second, second)))
        assert report.identities == 1
        assert network.layers[-1].inputs == [first, first]

    def test_a_change_of_type_stays(self, b):
        y = cast(b, cast(b, "x", F16), F32)
        z = b.layer("IDENTITY", [y], F16, (-1, 3, 4))
        network, report = simplified(b.output(add(b, y, y), cast(b, z, F32)))
        assert report.identities == 0
        assert kinds(network).count("CAST") == 3

    def test_a_shuffle_that_moves_something_stays(self):
        b = NetworkBuilder()
        x = b.input("x", F32, (3, 3))
        kept = [
            shuffle(b, x, (3, 3), first=[1, 0]),
            shuffle(b, x, (3, 3), second=[1, 0]),
            shuffle(b, x, (9,)),
            shuffle(b, x, (1, 3, 3)),
        ]
        network, report = simplified(b.output(*(b.layer("UNARY", [k], F32, t, op="NEG") for k, t in
                                               zip(kept, [(3, 3), (3, 3), (9,), (1, 3, 3)], strict=True))))  # fmt: skip
        assert report == Simplified(0, 0, 0, 0)
        assert kinds(network).count("SHUFFLE") == 4

    def test_two_unknown_dimensions_may_differ_and_stay(self):
        b = NetworkBuilder()
        x = b.input("x", F32, (-1, -1))
        y = shuffle(b, x, (-1, -1), dims=(3, -1))
        network, report = simplified(b.output(b.layer("UNARY", [y], F32, (-1, -1), op="NEG")), {
            "x": np.arange(12, dtype=np.float32).reshape(4, 3)
        })  # fmt: skip
        assert report.identities == 0
        assert "SHUFFLE" in kinds(network)


class TestDuplicates:
    def test_chains_collapse_to_the_first(self, b):
        def chain() -> str:
            y = add(b, "x", b.constant(WEIGHT[None], "w"))
            return b.layer("UNARY", [y], F32, (-1, 3, 4), op="NEG")

        first, second, third = chain(), chain(), chain()
        network, report = simplified(b.output(add(b, add(b, first, second), third)))
        assert report == Simplified(0, 0, 6, 0)
        assert kinds(network) == ["CONSTANT", "ELEMENTWISE", "UNARY", "ELEMENTWISE", "ELEMENTWISE"]

    def test_outputs_stay_each(self, b):
        one, two = (b.layer("UNARY", ["x"], F32, (-1, 3, 4), op="NEG") for _ in range(2))
        network, report = simplified(b.output(one, two))
        assert report.duplicates == 0
        assert network.outputs == [one, two]

    def test_what_differs_stays(self, b):
        x = b.layer("UNARY", ["x"], F32, (-1, 3, 4), op="NEG")
        y = b.layer("UNARY", ["x"], F32, (-1, 3, 4), op="ABS")  # another attribute
        z = b.layer("UNARY", [x], F32, (-1, 3, 4), op="NEG")  # another input
        swapped = [b.layer("ELEMENTWISE", pair, F32, (-1, 3, 4), op="SUB") for pair in ([y, z], [z, y])]
        network, report = simplified(b.output(add(b, *swapped)))
        assert report.duplicates == 0
        assert len(network.layers) == 6

    def test_one_weight_in_two_types_and_shapes_stays_two_constants(self, b):
        b.network.weights["w"] = WEIGHT
        constants = [
            b.constant(WEIGHT, "w"),
            b.layer("CONSTANT", [], DType.INT32, (3, 4), weights="w", shape=[3, 4]),
            b.constant(WEIGHT, "w", (4, 3)),
        ]
        network, report = simplified(b.output(add(b, "x", "x"), *(
            b.layer("UNARY", [c], b.network.tensors[c].dtype, b.network.tensors[c].shape, op="ABS") for c in constants
        )))  # fmt: skip
        assert report.duplicates == 0
        assert len(list(network.constants())) == 3

    @pytest.mark.parametrize("kind", ["KV_CACHE_UPDATE", "PLUGIN_V3"])
    def test_layers_that_write_to_memory_are_never_one(self, kind):
        network = NetworkBuilder()
        x = network.input("x", F32, (2, 3))
        twins = [network.layer(kind, [x], F32, (2, 3)) for _ in range(2)]
        network.output(add(network, *twins))
        assert simplify(network.network) == Simplified(0, 0, 0, 0)

    def test_random_numbers_are_drawn_each_time(self):
        b = NetworkBuilder()
        draws = [b.layer("FILL", [], F32, (2, 3), operation="RANDOM_UNIFORM", shape=[2, 3]) for _ in range(2)]
        b.output(add(b, *draws))
        assert simplify(b.network) == Simplified(0, 0, 0, 0)


class TestUnused:
    def test_layers_tensors_and_weights_vanish_and_inputs_stay(self, b):
        b.input("mask", F32, (-1,))
        dead = add(b, "x", b.constant(WEIGHT[None], "dead"))
        b.layers("TOPK", [dead], [(F32, (-1, 3, 1)), (DType.INT32, (-1, 3, 1))], op="MAX", k=1, axes=4)
        network, report = simplified(b.output(add(b, "x", b.constant(WEIGHT[None], "live"))))
        assert report == Simplified(0, 0, 0, 3)
        assert list(network.weights) == ["live"]
        assert network.inputs == ["x", "mask"]
        assert set(network.tensors) == {"x", "mask", *(n for layer in network.layers for n in layer.outputs)}

    def test_a_layer_with_one_output_in_use_keeps_both(self, b):
        values, indices = b.layers("TOPK", ["x"], [(F32, (-1, 3, 1)), (DType.INT32, (-1, 3, 1))], op="MAX", k=1, axes=4)
        network, report = simplified(b.output(indices))
        assert report.unused == 0
        assert values in network.tensors

    def test_a_weight_with_one_constant_left_stays(self, b):
        b.constant(WEIGHT, "w", (12,))
        network, _ = simplified(b.output(add(b, "x", b.constant(WEIGHT, "w", (1, 3, 4)))))
        assert list(network.weights) == ["w"]


@pytest.mark.parametrize("dtype", [F32, F16])
def test_a_decoder_keeps_its_numbers(dtype):
    shape = DecoderShape()
    network = decoder(shape, dtype)
    feeds = {**decoder_feeds(shape, dtype, 2), **step_feeds(np.arange(10).reshape(2, 5), np.array([0, 3]))}
    tidy, report = simplified(network, feeds)
    norms = 2 * shape.layers + 1
    assert report == Simplified(0, 2 * norms if dtype is F32 else 0, 0, 0)  # casts around each, and no more to find
    assert tidy.weights.keys() <= network.weights.keys()
