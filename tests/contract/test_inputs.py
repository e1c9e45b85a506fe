"""The registry of engine inputs: one entry a name, each of one kind, and those of plugins as the plugins' contracts have them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.decoders import compiled
from tt_edge.contract import EngineInput, FedBy, Step, engine_input, feeds, registered
from tt_edge.contract.inputs import REGISTRY, known_symbols
from tt_edge.dtypes import DType
from tt_edge.plugins.edgellm import vit_contract
from tt_edge.plugins.edgellm.contracts import GENERATIONS

#: What an operand's size is called in the plugins' contracts, where it varies from call to call.
VARYING = {"batch", "starts", "batch+1", "phase", "contexts", "segments+1", "longest"}


@pytest.mark.parametrize("entry", REGISTRY, ids=lambda entry: entry.name)
def test_entries(entry):
    name = entry.named(7)
    assert engine_input(name) is entry
    assert [other for other in REGISTRY if other.matches(name)] == [entry]
    assert not entry.matches(f"{name}x")
    assert (entry.feed is not None) == (entry.fed_by is FedBy.STEP)
    assert bool(entry.produced) == (entry.fed_by in (FedBy.TABLE, FedBy.CROSS))
    assert {symbol.name for symbol in entry.shape if symbol} <= known_symbols().keys()


def plugin_inputs():
    """Each integer input of the plugins, which is an engine input, too."""
    operands = {o.name: o for g in GENERATIONS.values() for o in g.inputs} | {o.name: o for o in vit_contract.INPUTS}
    return [o for o in operands.values() if o.dtype is not None and not o.dtype.is_floating]


@pytest.mark.parametrize("operand", plugin_inputs(), ids=lambda operand: operand.name)
def test_plugin_inputs_are_those_of_the_plugins_contracts(operand):
    entry = engine_input(operand.name)
    assert entry is not None
    assert entry.dtype is operand.dtype
    varying = tuple(size if size in VARYING else None for size in operand.shape)
    assert entry.symbols(len(operand.shape)) == varying


def test_more_dimensions_than_symbols_are_the_models():
    assert engine_input("position_ids").symbols(3) == (None, "batch", "sequence")  # M-RoPE


def test_an_input_for_the_length_of_a_block():
    entry = EngineInput("made_up", DType.INT32, (None,), FedBy.STEP, feed=lambda step: step.past + 1)
    assert engine_input("made_up") is None
    with registered(entry):
        assert engine_input("made_up") is entry
    assert engine_input("made_up") is None


def test_a_step_feeds_every_input_but_the_cache():
    contract = compiled()[1]
    step = Step(contract, np.array([[5, 6, 0], [7, 0, 0]]), np.array([2, 1]), np.array([4, 0], np.int32))
    fed = feeds(step)
    assert set(fed) == {spec.name for spec in contract.inputs} - contract.cache_names
    assert fed["position_ids"].tolist() == [[4, 5, 6], [0, 1, 2]]
    assert (fed["write_indices"].tolist(), fed["write_indices"].dtype) == ([4, 0], np.int32)
