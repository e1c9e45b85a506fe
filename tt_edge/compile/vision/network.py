"""Compiling the tower of a vision-language model to a captured network."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule
from transformers import PreTrainedModel

from tt_edge.bundle.manifest import VISION
from tt_edge.compile.export.semantics import semantic_attention
from tt_edge.compile.export.trace import trace
from tt_edge.compile.interface import read_contract
from tt_edge.compile.part import PartCompiler
from tt_edge.compile.vision.crossed.tower import CrossedTower
from tt_edge.compile.vision.deepstack import deepstack_levels
from tt_edge.compile.vision.pruning import PrunedTower
from tt_edge.compile.vision.tower import Tower
from tt_edge.config import CompileConfig
from tt_edge.contract import (
    IMAGE_FEATURES,
    INSTRUCTION_IDS,
    KEPT_PLACES,
    KEPT_ROWS,
    IOContract,
    VisionGeometry,
    deepstack_name,
)
from tt_edge.lowering.base import LoweringContext, LoweringPass
from tt_edge.lowering.pipeline import vision_passes

# Units of the traced example: a number that no model has as a size, so that no other dimension is mistaken for it.
_UNITS = 6


class TowerCompiler(PartCompiler):
    """The vision tower of a vision-language model: ``tower`` and the ``geometry`` of its inputs, as ``tower_of`` gives them.

    Its outputs are feature tables ``[rows, hidden]``, named after the decoder's inputs.
    """

    name = VISION

    def __init__(
        self,
        model: PreTrainedModel,
        config: CompileConfig,
        tower: Tower | PrunedTower,
        geometry: VisionGeometry,
        network_name: str = "model-vision",
    ) -> None:
        super().__init__(model, config, network_name)
        self.tower, self.geometry = tower, geometry

    def export(self) -> GraphModule:
        inputs = self.tower.example(_UNITS, next(self.model.parameters()).dtype)
        units, kept = torch.export.Dim("units"), torch.export.Dim("kept")
        shapes: dict[str, dict[int, Any]] = {name: {0: kept if name == KEPT_ROWS else units} for name in inputs}
        if INSTRUCTION_IDS in inputs:
            shapes[INSTRUCTION_IDS][1] = torch.export.Dim("instruction", max=self.geometry.max_instruction)
        with self.tower.traceable(), semantic_attention(self.model):
            return trace(
                self.tower,
                (),
                inputs,
                shapes,
                f"the vision tower of {type(self.model).__name__}",
            )

    def passes(self) -> list[LoweringPass]:
        return vision_passes(self.geometry)

    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        if isinstance(self.tower, CrossedTower):
            return read_contract(module, self.tower.tables, self.config.limits, geometry=self.geometry)
        tables = [IMAGE_FEATURES, *(deepstack_name(level) for level in range(deepstack_levels(self.model)))]
        tables += [KEPT_PLACES] if self.geometry.prunes else []
        return read_contract(module, tables, self.config.limits, geometry=self.geometry)
