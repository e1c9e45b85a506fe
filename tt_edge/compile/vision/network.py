"""From a vision-language model to the captured network of its tower."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from torch.fx import GraphModule

from tt_edge.compile.convert import convert_graph
from tt_edge.compile.semantics import semantic_attention
from tt_edge.compile.vision.families import VLMFamily
from tt_edge.compile.vision.tower import example, tower_of
from tt_edge.config import CompileConfig
from tt_edge.contract import IMAGE_FEATURES, Dim, TensorSpec, deepstack_name
from tt_edge.dtypes import DType
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import LoweringContext, output_values, value
from tt_edge.lowering.pipeline import LoweringReport, lower, vision_passes
from tt_edge.network.ir import Network
from tt_edge.network.simplify import simplify
from tt_edge.vision_contract import VisionContract, VisionGeometry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Units of the traced example; no size of a model, so that no other dimension is taken for theirs.
_UNITS = 6


def vision_network(
    model: PreTrainedModel, family: VLMFamily, config: CompileConfig, name: str, min_tokens: int, max_tokens: int
) -> tuple[Network, VisionContract, LoweringReport, object]:
    """Export, lower, convert and capture the tower of ``model``; the last result owns the memory of its weights.

    ``min_tokens`` and ``max_tokens`` are image tokens in one call. Raises ``UnsupportedModelError`` when it cannot be traced.
    """
    tower, geometry = tower_of(model, family.tower)
    inputs = example(geometry, _UNITS, next(model.parameters()).dtype)
    units = torch.export.Dim("units")
    with (
        tower.traceable(),
        semantic_attention(model),
        torch.no_grad(),
        patch.object(torch.fx.config, "do_not_emit_stack_traces", True),
    ):
        try:
            program = torch.export.export(
                tower, tuple(inputs.values()), dynamic_shapes=tuple({0: units} for _ in inputs), strict=False
            )
        except UnsupportedModelError:
            raise
        except Exception as error:
            if isinstance(error.__cause__, UnsupportedModelError):
                raise error.__cause__ from error
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UnsupportedModelError(
                f"the vision tower of {type(model).__name__} cannot be traced by torch.export: {reason}; run with --debug"
            ) from error
    exported = program.module(check_guards=False)
    module = GraphModule(exported, exported.graph)
    context = LoweringContext(config, 0)
    report = lower(module, vision_passes(), context)
    contract = _contract(module, geometry, min_tokens, max_tokens)
    ranges = contract.profiles()[0]
    specs = [(spec, ranges[spec.name]) for spec in contract.inputs]
    network, keep_alive = convert_graph(
        module, context, specs, [spec.name for spec in contract.outputs], f"{name}-vision"
    )
    simplify(network)
    return network, contract, report, keep_alive


def _contract(module: GraphModule, geometry: VisionGeometry, min_tokens: int, max_tokens: int) -> VisionContract:
    """Read off a lowered tower's inputs and outputs."""
    inputs = []
    for node in module.graph.find_nodes(op="placeholder"):
        if not node.users:
            module.graph.erase_node(node)
            continue
        fake = value(node)
        shape: tuple[Dim, ...] = (geometry.unit, *(int(size) for size in fake.shape[1:]))
        inputs.append(TensorSpec(str(node.target), DType(str(fake.dtype).removeprefix("torch.")), shape))
    outputs = []
    for index, node in enumerate(output_values(module.graph)):
        fake = value(node)
        name = IMAGE_FEATURES if index == 0 else deepstack_name(index - 1)
        outputs.append(TensorSpec(name, DType(str(fake.dtype).removeprefix("torch.")), ("rows", int(fake.shape[1]))))
    return VisionContract(geometry, tuple(inputs), tuple(outputs), min_tokens, max_tokens)
