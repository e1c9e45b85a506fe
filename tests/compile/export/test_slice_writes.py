"""Writes into slices without tracing again: the graph before and after, the numbers, and Qwen3-VL's network."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch import nn

from tests.lowering.helpers import ops
from tests.models.tiny_vlms import tiny_vlm
from tt_edge.compile.export import trace as tracing
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.export.layer_copies import mutates
from tt_edge.compile.export.slice_writes import replace_in_place, replace_writes
from tt_edge.config import CompileConfig


class Angles(nn.Module):
    """As Qwen3-VL's: rows 1 and 2 are written into parts of row 0, which is read before, between and behind."""

    def forward(self, x):  # [3, N, 9]
        angles = x.cos()
        first, before = angles[0], angles[0] + 1
        first[..., 1:9:3] = angles[1, ..., 1:9:3]
        between = first * 2
        first[..., 2:9:3] = angles[2, ..., 2:9:3]
        return torch.cat([before, between, first, angles[1], angles[0]])


class Twice(nn.Module):
    """The second write reads what the first wrote."""

    def forward(self, x):
        angles = x.cos()
        angles[0] = angles[1] + 1
        angles[1] = angles[0]
        return angles * 2, angles


class Transposed(nn.Module):
    """Another view than a part sees what is written."""

    def forward(self, x):
        angles = x.cos()
        turned = angles.transpose(0, 1)
        angles[0] = 1.5 * angles[1]
        return turned + 1


class States(nn.Module):
    """As Gemma 3n's: sums in place, also of a view and of a part; what is read behind is another view."""

    def forward(self, x):
        angles = x.cos().permute(0, 2, 1)
        angles += 1
        angles = angles.sin().type_as(x)
        angles[1:] += angles[:1] * 2
        return angles.permute(2, 0, 1)


class Seen(nn.Module):
    """Another view sees what is written, also where the tensor is converted to the type that it has."""

    def __init__(self, converts):
        super().__init__()
        self.converts = converts

    def forward(self, x):
        angles = x.cos()
        seen = angles.transpose(0, 1)
        angles = angles.type_as(x) if self.converts else angles
        angles *= 2
        return seen + 1


class Broadcast(nn.Module):
    def forward(self, x):
        angles = x.cos()
        angles[0] = angles[1, :1]
        return angles


class Chunks(nn.Module):
    """A part that a split made."""

    def forward(self, x):
        angles = x.cos()
        first, _ = angles.split(1)[0], angles
        first[:, 0] = angles[1, :1] * 3
        return angles


def exported(module, x):
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {1: torch.export.Dim("n", max=64)}}, strict=False)
    return program.module(check_guards=False)


@pytest.mark.parametrize("kind", [Angles, Twice])
def test_parts(kind):
    x = torch.randn(3, 5, 9)
    module = exported(kind(), x)
    assert ops(module)["aten.copy_.default"] == 2
    assert replace_writes(module.graph)
    module.recompile()
    module.graph.lint()
    found = ops(module)
    assert not any(name.endswith("_.default") for name in found)
    assert found["aten.select_scatter.default"] == 2
    assert found["aten.slice_scatter.default"] == (2 if kind is Angles else 0)
    assert all("val" in node.meta for node in module.graph.nodes if node.op == "call_function")
    for rows in (5, 7):
        x = torch.randn(3, rows, 9)
        torch.testing.assert_close(module(x), kind()(x))


def test_operators_in_place():
    x = torch.randn(3, 5, 9)
    module = exported(States(), x)
    assert sum(map(mutates, module.graph.nodes)) == 3
    replace_in_place(module.graph)
    assert replace_writes(module.graph)
    module.recompile()
    module.graph.lint()
    assert not any(map(mutates, module.graph.nodes))
    for rows in (5, 7):
        x = torch.randn(3, rows, 9)
        torch.testing.assert_close(module(x), States()(x))


@pytest.mark.parametrize("converts", [False, True])
def test_operators_in_place_of_what_is_seen_elsewhere_stay(converts):
    x = torch.randn(3, 5, 9)
    module = exported(Seen(converts), x)
    replace_in_place(module.graph)
    assert sum(map(mutates, module.graph.nodes)) == 1
    assert not replace_writes(module.graph)


@pytest.mark.parametrize("kind", [Transposed, Broadcast, Chunks])
def test_what_it_leaves_as_it_is(kind):
    """Another view of the tensor, and a value of another shape: these are traced again."""
    x = torch.randn(2, 5, 9)
    module = exported(kind(), x)
    before = str(module.graph)
    assert not replace_writes(module.graph)
    assert str(module.graph) == before
    traced = tracing.trace(kind(), [x], {}, {"x": {1: torch.export.Dim("n", max=64)}}, "the model")
    assert "aten.copy_.default" not in ops(traced)
    torch.testing.assert_close(traced(x), kind()(x))


def test_the_network_is_that_of_a_second_trace():
    """Qwen3-VL's decoder: layers, their attributes and wiring, and weights; only names count otherwise."""
    config = CompileConfig.of(
        precision="fp32", max_input_len=16, max_seq_len=16, min_image_tokens=4, max_image_tokens=8
    )
    compiler = DecoderCompiler(tiny_vlm("qwen3_vl"), config)
    with patch.object(torch.export.ExportedProgram, "run_decompositions", side_effect=AssertionError):
        once = compiler.compile().network
    with patch.object(tracing, "replace_writes", lambda _: False):
        twice = compiler.compile().network
    assert _described(once) == _described(twice)


def _described(network):
    numbers, lines = {}, []
    for layer in network.layers:
        attributes = {k: v for k, v in layer.attributes.items() if k != "weights"}
        weights = network.weights.get(layer.attributes.get("weights"))
        content = None if weights is None else bytes(memoryview(weights).cast("B"))
        wires = [
            [numbers.setdefault(str(each), len(numbers)) for each in ends] for ends in (layer.inputs, layer.outputs)
        ]
        lines.append((layer.kind, wires, attributes, content))
    return lines
