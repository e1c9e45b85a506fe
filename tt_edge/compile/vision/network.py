"""From a vision-language model to the captured network of its tower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from torch.fx import GraphModule

from tt_edge.compile.convert import convert_graph, converters
from tt_edge.compile.export.semantics import semantic_attention
from tt_edge.compile.vision.families import VLMFamily
from tt_edge.compile.vision.tower import GridTower, TileTower, example, tower_of
from tt_edge.config import CompileConfig, TowerAttention
from tt_edge.contract import IMAGE_FEATURES, Dim, TensorSpec, deepstack_name
from tt_edge.dtypes import DType
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.lowering.base import LoweringContext, output_values, value
from tt_edge.lowering.pipeline import LoweringReport, lower, vision_passes
from tt_edge.network.ir import Network
from tt_edge.network.simplify import simplify
from tt_edge.vision_contract import TILES, VisionContract, VisionGeometry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Units of the traced example; no size of a model, so that no other dimension is taken for theirs.
_UNITS = 6


#: Image tokens in one call where the user says nothing.
_MIN_TOKENS, _MAX_TOKENS = 4, 1024


@dataclass(frozen=True)
class CompiledVision:
    """A captured tower. ``config`` has its limits filled in; ``keep_alive`` owns the weights' memory."""

    network: Network
    contract: VisionContract
    config: CompileConfig
    lowering: LoweringReport
    keep_alive: object


def compile_vision(model: PreTrainedModel, family: VLMFamily, config: CompileConfig, name: str) -> CompiledVision:
    """Export, lower, convert and capture the tower of ``model``.

    Raises ``UnsupportedModelError`` when it cannot be traced, and ``InvalidInputError`` for limits that it cannot have.
    """
    tower, geometry = tower_of(model, family.tower, ragged=config.vision_attention is TowerAttention.PLUGIN)
    config = _with_limits(config, geometry, family)
    module = _exported(model, tower, example(geometry, _UNITS, next(model.parameters()).dtype))
    context = LoweringContext(config, 0, converters=converters())
    report = lower(module, vision_passes(geometry), context)
    contract = _contract(module, geometry, context)
    ranges = contract.profiles()[0]
    specs = [(spec, ranges[spec.name]) for spec in contract.inputs]
    outputs = [spec.name for spec in contract.outputs]
    network, keep_alive = convert_graph(module, specs, outputs, f"{name}-vision")
    simplify(network)
    return CompiledVision(network, contract, config, report, keep_alive)


def _with_limits(config: CompileConfig, geometry: VisionGeometry, family: VLMFamily) -> CompileConfig:
    """``config`` with numbers of image tokens: the user's, whole tiles of them, or defaults."""
    unit = geometry.tokens_a_unit if geometry.unit == TILES else 1
    most = config.max_image_tokens
    if most is None:
        most = family.most_tiles * unit if geometry.unit == TILES else _MAX_TOKENS
    least = min(config.min_image_tokens or _MIN_TOKENS, most)
    if most < unit:
        raise InvalidInputError(
            f"max_image_tokens {most} is less than the {unit} of one image; give --max-image-tokens {unit} or more"
        )
    if most > config.max_seq_len:
        if config.max_image_tokens is None and geometry.unit != TILES:
            most = config.max_seq_len
        else:
            raise InvalidInputError(
                f"max_image_tokens {most} exceeds max_seq_len {config.max_seq_len}; raise --max-seq-len, or give a lower "
                "--max-image-tokens"
            )
    return replace(config, min_image_tokens=min(least, most), max_image_tokens=most - most % unit)


def _exported(model: PreTrainedModel, tower: GridTower | TileTower, inputs: dict[str, torch.Tensor]) -> GraphModule:
    units = torch.export.Dim("units")
    with (
        tower.traceable(),
        semantic_attention(model),
        torch.no_grad(),
        patch.object(torch.fx.config, "do_not_emit_stack_traces", True),
    ):
        try:
            program = torch.export.export(
                tower, (), kwargs=inputs, dynamic_shapes={name: {0: units} for name in inputs}, strict=False
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
    return GraphModule(exported, exported.graph)


def _contract(module: GraphModule, geometry: VisionGeometry, context: LoweringContext) -> VisionContract:
    """Read off a lowered tower's inputs and outputs."""
    inputs = []
    for node in module.graph.find_nodes(op="placeholder"):
        if not node.users:
            module.graph.erase_node(node)
            continue
        fake, name = value(node), str(node.target)
        shape: tuple[Dim, ...] = (geometry.unit, *(int(size) for size in fake.shape[1:]))
        shape = context.input_shapes.get(name, shape)
        inputs.append(TensorSpec(name, DType(str(fake.dtype).removeprefix("torch.")), shape))
    outputs, config = [], context.config
    for index, node in enumerate(output_values(module.graph)):
        fake = value(node)
        name = IMAGE_FEATURES if index == 0 else deepstack_name(index - 1)
        outputs.append(TensorSpec(name, DType(str(fake.dtype).removeprefix("torch.")), ("rows", int(fake.shape[1]))))
    assert config.min_image_tokens is not None
    assert config.max_image_tokens is not None
    return VisionContract(geometry, tuple(inputs), tuple(outputs), config.min_image_tokens, config.max_image_tokens)
