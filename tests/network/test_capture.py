"""Capture, storage and rebuild against the real bindings: what goes in comes out, for every kind of layer."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tests.network.networks import KEEP, NETWORKS, constant, x
from tt_edge.dtypes import DType
from tt_edge.errors import CaptureError
from tt_edge.folder import Folder
from tt_edge.network.capture import capture, sort_layers
from tt_edge.network.ir import Layer
from tt_edge.network.layers import SPECS
from tt_edge.network.rebuild import rebuild
from tt_edge.network.storage import read_network, write_network


def build(tensorrt, add):
    builder = tensorrt.module.Builder(tensorrt.logger)
    network = builder.create_network()
    layer = add(tensorrt.module, network)
    for index in range(layer.num_outputs):
        network.mark_output(layer.get_output(index))
    return builder, network


def assert_equal(a, b):
    assert (a.inputs, a.outputs, a.tensors, a.layers) == (b.inputs, b.outputs, b.tensors, b.layers)
    for key, array in a.weights.items():
        assert np.asarray(array).tobytes() == np.asarray(b.weights[key]).tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_survives_storage_and_rebuild(tensorrt, tmp_path, name):
    _builder, network = build(tensorrt, NETWORKS[name])
    captured = capture(tensorrt, network, name)
    write_network(captured, lambda file: (tmp_path / file).open("wb"))
    folder = Folder.open(tmp_path)
    read = read_network(folder.file("network.json"), folder.file("weights.safetensors"))
    assert_equal(captured, read)
    rebuilt = rebuild(tensorrt, read)
    assert_equal(captured, capture(tensorrt, rebuilt.network, name))


def test_every_kind_in_the_table_is_tested(tensorrt):
    covered = set()
    for add in NETWORKS.values():
        _builder, network = build(tensorrt, add)
        covered |= set(capture(tensorrt, network, "n").kinds())
    assert set(SPECS) - covered == {"ASSERTION", "DYNAMIC_QUANTIZE", "ONE_HOT"}


def test_attention_is_one_layer_with_its_seven_inputs(tensorrt):
    _builder, network = build(tensorrt, NETWORKS["attention"])
    (layer,) = capture(tensorrt, network, "n").layers
    assert (layer.kind, layer.inputs) == ("ATTENTION", ["q", "k", "v", None, None, None, "l"])
    assert layer.attributes["causal_kind"] == "LOWER_RIGHT"


def test_weights_are_views_and_stored_once(tensorrt):
    big, other = np.random.default_rng(0).random((256, 256)).astype(np.float16), np.ones((4,), np.float32)

    def add(trt, n):
        a = constant(trt, n, big)
        b = constant(trt, n, big)  # the same memory: a tied embedding
        small = [constant(trt, n, other.copy()) for _ in range(3)]  # equal content: a repeated epsilon
        total = n.add_elementwise(a, b, trt.ElementWiseOperation.SUM)
        for s in small:
            n.mark_output(n.add_identity(s).get_output(0))
        return total

    _builder, network = build(tensorrt, add)
    captured = capture(tensorrt, network, "n")
    assert len(captured.weights) == 2
    stored = next(w for w in captured.weights.values() if w.size == big.size)
    assert stored.ctypes.data == KEEP[-5].ctypes.data
    assert captured.weight_bytes() == {DType.FLOAT16: big.nbytes, DType.FLOAT32: other.nbytes}


def test_an_unknown_kind_is_refused_by_name(tensorrt):
    def add(trt, n):
        data = x(trt, n, (4, 2, 8))
        layer = n.add_reverse_sequence(data, n.add_input("l", trt.int32, (2,)))
        layer.name = "turn around"
        return layer

    _builder, network = build(tensorrt, add)
    with pytest.raises(CaptureError, match=r"'turn around' is a REVERSE_SEQUENCE"):
        capture(tensorrt, network, "n")


def test_layers_are_put_in_an_order_that_runs():
    layers = [Layer("b", "IDENTITY", ["t"], ["u"]), Layer("a", "IDENTITY", ["in"], ["t"])]
    assert [layer.name for layer in sort_layers(layers, ["in"])] == ["a", "b"]
    with pytest.raises(CaptureError, match=r"reads 'nowhere', which is made by no layer"):
        sort_layers([Layer("c", "IDENTITY", ["nowhere"], ["v"])], ["in"])
    with pytest.raises(CaptureError, match="cycle"):
        sort_layers([Layer("c", "IDENTITY", ["v"], ["v"])], [])


def test_weights_keep_the_owner_of_their_memory_alive(tensorrt):
    class Owner:
        pass

    _builder, network = build(tensorrt, NETWORKS["bfloat16 constant"])
    owner = Owner()
    alive = weakref.ref(owner)
    weights = capture(tensorrt, network, "n", owner=owner).weights
    del owner
    gc.collect()
    assert alive() is not None
    del weights
    gc.collect()
    assert alive() is None
