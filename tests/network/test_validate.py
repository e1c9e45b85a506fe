"""What a network must be before anything is computed or built from it."""

from __future__ import annotations

import copy
import json

import pytest

from tests.fuzz.conftest import refused
from tests.fuzz.structures import mutated_network
from tests.models.decoders import compiled
from tests.network.networks import NETWORKS
from tests.network.test_capture import build
from tt_edge.errors import BundleError, CaptureError
from tt_edge.network.capture import capture
from tt_edge.network.ir import Layer, Network, Tensor
from tt_edge.network.rebuild import rebuild
from tt_edge.network.reference import ReferenceEvaluator
from tt_edge.network.storage import network_json, parse_network
from tt_edge.network.validate import validate


@pytest.fixture
def network():
    found, _ = compiled()
    return Network(
        found.name, [*found.inputs], [*found.outputs], {**found.tensors}, copy.deepcopy(found.layers), found.weights
    )


def layer_of(network: Network, kind: str) -> Layer:
    return next(layer for layer in network.layers if layer.kind == kind)


def reshaped(network: Network, name: str | None, *shape: int) -> None:
    tensor = network.tensors[str(name)]
    network.tensors[tensor.name] = Tensor(tensor.name, tensor.dtype, shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_tensorrt_takes_is_valid(tensorrt, name):
    _builder, network = build(tensorrt, NETWORKS[name])
    validate(capture(tensorrt, network, name))


CHANGES = {
    "unknown kind": (lambda n: setattr(n.layers[-1], "kind", "LOOP"), "tt-edge knows no such kind"),
    "unset input": (lambda n: layer_of(n, "ELEMENTWISE").inputs.__setitem__(1, None), "has 2 inputs"),
    "missing input": (lambda n: layer_of(n, "MATRIX_MULTIPLY").inputs.pop(), "has 1 inputs"),
    "its own output": (lambda n: layer_of(n, "ATTENTION").inputs.__setitem__(0, layer_of(n, "ATTENTION").outputs[0]), "before it"),
    "dangling": (lambda n: layer_of(n, "GATHER").inputs.__setitem__(0, "nothing"), "reads 'nothing' before it is made"),
    "cyclic": (lambda n: n.layers.reverse(), "before it is made"),
    "equal names": (lambda n: setattr(n.layers[1], "name", n.layers[0].name), "another layer has its name"),
    "doubled output": (lambda n: n.outputs.append(n.outputs[0]), "listed twice"),
    "lacks an attribute": (lambda n: layer_of(n, "ELEMENTWISE").attributes.clear(), "lacks the attribute 'op'"),
    "strange attribute": (lambda n: layer_of(n, "GATHER").attributes.update(x=1), "an attribute 'x', which the kind lacks"),
    "no integer": (lambda n: layer_of(n, "GATHER").attributes.update(axis=2**40), "its axis is"),
    "no flag": (lambda n: layer_of(n, "ATTENTION").attributes.update(decomposable=1), "its decomposable is '1'"),
    "no list": (lambda n: layer_of(n, "SHUFFLE").attributes.update(reshape_dims=5), "its reshape_dims is '5'"),
    "axis": (lambda n: layer_of(n, "GATHER").attributes.update(axis=7), "its axis is 7"),
    "permutation": (lambda n: layer_of(n, "SHUFFLE").attributes.update(second_transpose=[0, 0, 1, 2]), "second_transpose"),
    "wrong weight": (lambda n: layer_of(n, "CONSTANT").attributes.update(weights="x"), "names the weight 'x'"),
    "cache shape": (lambda n: reshaped(n, layer_of(n, "KV_CACHE_UPDATE").inputs[0], -1, 2, 1, 8), "is malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_refused(network, name):
    change, message = CHANGES[name]
    change(network)
    with pytest.raises(BundleError, match=message) as error:
        validate(network)
    assert str(error.value).endswith("; copy the bundle again") or "update tt-edge" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_hostile_networks_are_refused_in_a_line(tensorrt):
    """Structures that a reader of the format would think of: neither the evaluator nor the builder's bindings choke."""
    builder, network = build(tensorrt, NETWORKS["slice dynamic"])
    del builder
    seeds = {"decoder": compiled()[0], "slice": capture(tensorrt, network, "slice")}
    accepted = 0
    for captured in seeds.values():
        content = network_json(captured)
        for seed in range(150):
            with refused():
                hostile = parse_network(json.loads(mutated_network(content, seed, 1)))
                hostile.weights = captured.weights
                validate(hostile)
                accepted += 1
                ReferenceEvaluator(hostile)
                rebuild(tensorrt, hostile)
    assert accepted > 10


def test_what_the_bindings_refuse_is_one_line(tensorrt):
    _builder, network = build(tensorrt, NETWORKS["elementwise"])
    captured = capture(tensorrt, network, "sum")
    captured.layers[0].inputs.pop()
    with pytest.raises(CaptureError, match=r"refuses layer .* \(ELEMENTWISE\): .*; compile the model again") as error:
        rebuild(tensorrt, captured)
    assert len(str(error.value).splitlines()) == 1
