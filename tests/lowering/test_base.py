"""What all passes share, and that each follows the conventions."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch

import tt_edge.lowering
from tests.lowering.helpers import Function, canonical, context, export
from tt_edge.errors import LoweringError
from tt_edge.lowering.base import Expectation, LoweringPass, calls, emit, replace

PASSES = [
    found
    for info in pkgutil.walk_packages(tt_edge.lowering.__path__, "tt_edge.lowering.")
    for found in vars(importlib.import_module(info.name)).values()
    if inspect.isclass(found) and issubclass(found, LoweringPass) and found.__module__ == info.name
    if found is not LoweringPass
]
RELU = torch.ops.aten.relu.default


@pytest.mark.parametrize("found", PASSES, ids=lambda found: found.__name__)
def test_every_pass_is_named_as_its_file_documented_and_tested_directly(found):
    *_, folder, file = found.__module__.split(".")
    assert found.name == file
    assert (Path(__file__).parent / folder / f"test_{file}.py").is_file()
    documented = inspect.getdoc(found) or ""
    assert "1. " in documented or "->" in documented, "the docstring shows the graph before and after"


class DropRelu(LoweringPass):
    def rewrite(self, module, where):
        found = list(calls(module.graph, RELU))
        for node in found:
            replace(node, node.args[0])
        return len(found)

    def expected(self, where):
        return Expectation(1, "one relu")


def two_relus():
    return canonical(export(Function(lambda _, x: torch.relu(torch.relu(x) * 2)), torch.randn(3)))


def test_another_number_of_matches_than_expected_is_an_error_with_its_reason():
    with pytest.raises(LoweringError, match=r"pass drop_relu matched 2 times, not once \(one relu\)"):
        DropRelu()(two_relus(), context())


def test_a_pass_reports_its_matches_and_the_nodes_left_without_dead_ones():
    module = canonical(export(Function(lambda _, x: torch.relu(x) * 2), torch.randn(3)))
    with module.graph.inserting_before(module.graph.output_node()):
        module.graph.call_function(RELU.overloadpacket.default, (next(iter(module.graph.nodes)),)).meta["val"] = None
    module.graph.eliminate_dead_code()
    record = DropRelu()(module, context())
    assert (record.name, record.matches, record.nodes) == ("drop_relu", 1, 1)


def test_a_replacement_keeps_the_users_and_the_module_it_came_from():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.act = torch.nn.ReLU()

        def forward(self, x):
            return self.act(x) + 1

    module = canonical(export(Model(), torch.randn(3)))
    (node,) = calls(module.graph, RELU)
    (user,), stack = node.users, node.meta["nn_module_stack"]
    with module.graph.inserting_before(node):
        new = emit(module.graph, torch.ops.aten.neg.default, node.args[0])
    assert "nn_module_stack" not in new.meta
    replace(node, new)
    assert user.args[0] is new
    assert new.meta["nn_module_stack"] == stack
    assert new.meta["nn_module_stack"] is not stack
    assert node not in module.graph.nodes
