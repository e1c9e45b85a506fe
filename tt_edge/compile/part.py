"""Compiling one part of a model to a captured network: the stages that every part goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch.fx import GraphModule

from tt_edge.compile.convert import convert_graph, converters
from tt_edge.compile.stages import Stages
from tt_edge.config import CompileConfig
from tt_edge.contract import IOContract
from tt_edge.lowering.base import LoweringContext, LoweringPass
from tt_edge.lowering.pipeline import LoweringReport, lower
from tt_edge.network.ir import Network
from tt_edge.network.simplify import simplify

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CompiledPart:
    """A captured part and the contract of its inputs and outputs.

    ``converted_layers`` counts the network's layers before simplification.
    """

    name: str
    network: Network
    contract: IOContract
    lowering: LoweringReport
    converted_layers: int


class PartCompiler(ABC):
    """Exports, lowers, converts and captures one part of ``model``. The limits of ``config`` are already resolved."""

    #: The part's name in the bundle.
    name: str
    #: The number of decoder layers, each of which must have exactly one attention; 0: not checked.
    decoder_layers = 0
    #: Whether some tokens of a prompt see each other in both directions.
    blocks = window_blocks = False
    #: Scales of an FP8 KV cache, layer by layer.
    kv_scales: Sequence[tuple[float, float, float]] = ()

    def __init__(self, model: PreTrainedModel, config: CompileConfig, network_name: str = "model") -> None:
        self.model, self.config, self.network_name = model, config, network_name

    @abstractmethod
    def export(self) -> GraphModule:
        """The part as a graph of ATen and ``tt_edge`` operators. Raises ``UnsupportedModelError`` for a model without one."""

    @abstractmethod
    def passes(self) -> list[LoweringPass]:
        """The lowering passes, in order."""

    @abstractmethod
    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        """The contract of the lowered graph."""

    def compile(self, stages: Stages | None = None, dump: Path | None = None) -> CompiledPart:
        """Run all stages. ``dump`` is a folder for the graph before and after each lowering pass that changed it.

        Raises ``UnsupportedModelError`` when the part cannot be traced or the backend cannot express it, and ``LoweringError``
        when a pass does not find what it needs or TensorRT refuses a layer.
        """
        stages = stages or Stages(show=False)
        with stages.stage("export"):
            module = self.export()
        with stages.stage("lower"):
            context = LoweringContext(
                self.config,
                self.decoder_layers,
                kv_scales=self.kv_scales,
                converters=converters(),
                blocks=self.blocks,
                window_blocks=self.window_blocks,
            )
            lowering = lower(module, self.passes(), context, dump)
        with stages.stage("convert"):
            contract = self.contract(module, context)
            ranges = contract.profiles()[0]
            network = convert_graph(
                module,
                [(spec, ranges[spec.name]) for spec in contract.inputs],
                [spec.name for spec in contract.outputs],
                self.network_name,
            )
            converted = len(network.layers)
            simplify(network)
        return CompiledPart(self.name, network, contract, lowering, converted)
