"""Layers that are traced once and repeated: the graph is that of a whole trace, and what differs is never taken for equal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from torch import nn

from tests.models.tiny_models import tiny_model
from tt_edge.compile.export import repeat
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.export.trace import trace
from tt_edge.config import CompileConfig

FOUR = {"num_hidden_layers": 4}
MODELS = {
    "qwen3": (FOUR, 1),
    "gpt2": ({"n_layer": 4}, 1),
    "gemma2": (FOUR, 2),  # every other layer has a window
    "smollm3": ({**FOUR, "no_rope_layers": [1, 0, 1, 1]}, 1),  # the second layer is of a kind of its own
}


@pytest.fixture
def traced(monkeypatch):
    """The layers that were traced as the first of their kind."""
    calls = []
    original = repeat.RepeatedLayers._trace_first

    def counted(self, first, *args):
        calls.append(first.layer.path)
        return original(self, first, *args)

    monkeypatch.setattr(repeat.RepeatedLayers, "_trace_first", counted)
    return calls


def described(module):
    """Every node with its arguments, shape and place in the model; names of calls do not matter."""
    names, lines = {}, []
    for node in module.graph.nodes:
        names[node] = f"%{len(names)}" if node.op == "call_function" else node.name
        arguments = torch.fx.map_arg((node.args, node.kwargs), names.get)
        lines.append(
            (node.op, str(node.target), arguments, str(node.meta.get("val")), node.meta.get("nn_module_stack"))
        )
    return lines


@pytest.mark.parametrize("family", MODELS)
def test_the_graph_is_that_of_a_whole_trace(family, traced, monkeypatch):
    settings, kinds = MODELS[family]
    compiler = DecoderCompiler(tiny_model(family, **settings), CompileConfig.of(max_input_len=16, max_seq_len=16))
    repeated = compiler.export()
    assert len(traced) == kinds
    monkeypatch.setattr(repeat, "layers_of", lambda _: [])
    assert described(repeated) == described(compiler.export())


class Layer(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.linear, self.layer_idx, self.scale = nn.Linear(4, 4), index, 2.0

    def forward(self, hidden_states, shift=None, add=1.0):
        hidden = hidden_states + self.linear(hidden_states) * self.scale + add
        return hidden if shift is None else hidden + shift


class Model(nn.Module):
    """Four layers and a loop over them; subclasses change one thing."""

    layer: type[nn.Module] = Layer

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(self.layer(index) for index in range(4))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class ByIndex(Layer):
    def forward(self, hidden_states):
        return super().forward(hidden_states) / (self.layer_idx + 1)


class ListedIndex(Layer):
    def forward(self, hidden_states):
        return super().forward(hidden_states) * [1.0, 2.0, 3.0, 4.0][self.layer_idx]


class Rounded(Layer):
    """PyTorch and Python have errors of their own for a number that is none."""

    def forward(self, hidden_states):
        return super().forward(hidden_states) * torch.full((1,), round(self.layer_idx))


class Filled(Layer):
    def forward(self, hidden_states):
        return super().forward(hidden_states) * torch.full((1,), self.layer_idx)


class IsNumbered(Layer):
    def forward(self, hidden_states):
        return super().forward(hidden_states) * (2 if isinstance(self.layer_idx, int) else 3)


class Keeping(Layer):
    """Has state that a call may change."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.seen: list[float] = []


class Counted(Layer):
    """Counts its calls where no module has it."""

    calls: ClassVar[list[int]] = []

    def forward(self, hidden_states):
        self.calls.append(len(self.calls) % 4)
        return super().forward(hidden_states, add=float(self.calls[-1]))


class Pair(Layer):
    def forward(self, hidden_states):
        return super().forward(hidden_states), hidden_states.sum()


class Writing(Layer):
    def forward(self, hidden_states):
        hidden = super().forward(hidden_states)
        hidden[:, 0] = 0
        return hidden


class Tuple(Layer):
    def forward(self, hidden_states):
        return super().forward(hidden_states), None


def of_layer(kind):
    return type(f"ModelOf{kind.__name__}", (Model,), {"layer": kind})()


def changed(change):
    model = Model()
    change(model)
    return model


class Loop(Model):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = self.call(index, layer, x)
        return x


class OfTuples(Model):
    layer = Tuple

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)[0]
        return x


class OfPairs(Model):
    layer = Pair

    def forward(self, x):
        for layer in self.layers:
            x, total = layer(x)
            x = x + total
        return x


class OfWrites(Model):
    """Writes to an argument between two calls that are otherwise equal."""

    def forward(self, x):
        shift = x.sum(0) * 1
        for layer in self.layers:
            x = layer(x, shift)
            shift += 1
        return x


class Tied(Layer):
    """Two weights, which are one in the first layer only."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.other = nn.Linear(4, 4)
        if index == 0:
            self.other.weight = self.linear.weight

    def forward(self, hidden_states):
        return super().forward(hidden_states) + self.other(hidden_states)


class Reordered(Layer):
    """Takes its hidden states second."""

    def forward(self, shift, hidden_states):
        return super().forward(hidden_states, shift)


class OfReordered(Model):
    layer = Reordered

    def forward(self, x):
        shift = x.sum(0)
        for layer in self.layers:
            x = layer(hidden_states=x, shift=shift)
        return x


class ByModule(Layer):
    """Takes a tensor from elsewhere, another one for each layer."""

    elsewhere: ClassVar[dict[nn.Module, torch.Tensor]] = {}

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.elsewhere[self] = torch.full((4,), float(index))

    def forward(self, hidden_states):
        return super().forward(hidden_states, self.elsewhere[self])


class Shifted(Layer):
    def shift_of(self, hidden):
        return hidden

    def forward(self, hidden_states):
        return super().forward(hidden_states, self.shift_of(hidden_states))


class OfPatches(Model):
    """Replaces a method of each layer in its forward, as ``tt_edge.compile.seq2seq.positions`` does."""

    layer = Shifted

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ParameterList(torch.randn(4) for _ in self.layers)

    def forward(self, x):
        with ExitStack() as stack:
            for layer, table in zip(self.layers, self.tables, strict=True):
                stack.enter_context(patch.object(layer, "shift_of", lambda hidden, table=table: hidden + table))
            return super().forward(x)


class OfPatchesInTurn(OfPatches):
    """Replaces the method of one layer at a time: the functions are freed, and others get their ids."""

    def forward(self, x):
        for layer, table in zip(self.layers, self.tables, strict=True):
            with patch.object(layer, "shift_of", lambda hidden, table=table: hidden + table):
                x = layer(x)
        return x


class Remembering(Layer):
    """Keeps a tensor for later."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.last: torch.Tensor | None = None

    def forward(self, hidden_states):
        self.last = hidden_states * 2
        return super().forward(hidden_states)


class OfRemembering(Model):
    layer = Remembering

    def forward(self, x):
        for layer in self.layers:
            layer.last = None
        x = super().forward(x)
        return x + sum(layer.last for layer in self.layers if layer.last is not None)


class OfAFirstBias(Model):
    """Passes a weight of the first layer to all."""

    def forward(self, x):
        for layer in self.layers:
            x = layer(x, self.layers[0].linear.bias)
        return x


class Returning(ByModule):
    def forward(self, hidden_states):
        return self.elsewhere[self]


class OfReturning(Model):
    layer = Returning

    def forward(self, x):
        hidden = total = x.new_zeros(4)
        for layer in self.layers:
            hidden = layer(hidden)
            total = total + hidden
        return x + total


def tie(model):
    model.layers[2].linear.weight = model.layers[1].linear.weight


CASES = {
    "equal layers": (Model(), 1),
    "a tuple of one tensor": (OfTuples(), 1),
    "two tensors": (OfPairs(), 1),
    "a setting of one layer": (changed(lambda model: setattr(model.layers[2], "scale", 3.0)), 1),
    "settings of all layers": (changed(lambda m: [setattr(x, "scale", float(i)) for i, x in enumerate(m.layers)]), 0),
    "training mode of one layer": (changed(lambda model: model.layers[1].train(False)), 1),
    "a weight that two layers share": (changed(tie), 1),
    "a layer that another has no bias": (changed(lambda m: setattr(m.layers[1], "linear", nn.Linear(4, 4, False))), 1),
    "a hook": (changed(lambda model: model.layers[1].register_forward_hook(lambda *a: a[-1] * 2)), 1),
    "an argument by position in the loop": (Loop(lambda i, layer, x: layer(x, None, float(i % 2))), 2),
    "a named argument": (Loop(lambda i, layer, x: layer(x, add=3.0 if i == 3 else 1.0)), 2),
    "another tensor for each": (Loop(lambda i, layer, x: layer(x, torch.full((4,), float(i)))), 4),
    "work between the layers": (Loop(lambda i, layer, x: layer(x) * (i + 1)), 1),
    "a layer that runs twice": (Loop(lambda i, layer, x: layer(layer(x))), 1),
    "a layer that runs twice, in two ways": (Loop(lambda i, layer, x: layer(layer(x, add=2.0), add=3.0)), 2),
    "methods that the model replaces": (OfPatches(), 4),
    "methods that the model replaces in turn": (OfPatchesInTurn(), 4),
    "a tensor that is kept": (OfRemembering(), 1),
    "hidden states that are not the first argument": (OfReordered(), 1),
    "hidden states by name": (Loop(lambda i, layer, x: layer(hidden_states=x)), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_the_models(case, traced):
    model, kinds = CASES[case]
    assert_equal(model)
    assert len(traced) == kinds


@pytest.mark.parametrize(
    "model",
    [
        *map(
            of_layer,
            (ByIndex, ListedIndex, Rounded, Filled, IsNumbered, Keeping, Writing, Tied, ByModule, Counted),
        ),
        *(OfWrites(), OfAFirstBias(), OfReturning()),
    ],
)
def test_layers_that_may_differ_are_traced_whole(model):
    graph = assert_equal(model)
    assert not graph.find_nodes(op="call_function", target=torch.ops.tt_edge.layer_mark.default)


def assert_equal(model):
    """Trace ``model`` and compare results with its own; the graph is returned."""
    graph = trace(model, (torch.zeros(2, 4),), {}, ({0: torch.export.Dim("rows")},), "the model")
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert torch.equal(graph(x), model(x))
    return graph.graph
