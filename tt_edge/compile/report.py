"""The report of a compile, for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.bundle.manifest import DECODER, VISION, EngineRecord, ModelIdentity
from tt_edge.config import CompileConfig

if TYPE_CHECKING:
    from tt_edge.compile.part import CompiledPart
    from tt_edge.lowering.pipeline import LoweringReport

_ADD_ENGINE = "add --engine sm89 (or the target's), or build on the target"
_ADD_ENGINE_WITH_PLUGINS = (
    "build where standard TensorRT and the plugin library are; the plugin itself is not executed here"
)


@dataclass(frozen=True)
class PartReport:
    """The results for one part.

    ``layers`` counts those of the captured network, ``converted`` those before simplification, ``engine_layers`` those of
    the ``INetworkDefinition`` that was built last (an attention is two there); 0 without an engine.
    """

    lowering: LoweringReport
    converted: int
    layers: int
    weight_bytes: int
    engine_layers: int

    @classmethod
    def of(cls, part: CompiledPart, engine_layers: int) -> PartReport:
        network = part.network
        weight_bytes = sum(network.weight_bytes().values())
        return cls(part.lowering, part.converted_layers, len(network.layers), weight_bytes, engine_layers)


@dataclass
class CompileReport:
    """The results of a compile: its parts by name, and ``seconds`` by stage, summed over all parts."""

    output: Path
    model: ModelIdentity
    config: CompileConfig
    parts: Mapping[str, PartReport]
    engines: list[EngineRecord] = field(default_factory=list)
    quantized: dict[str, int] = field(default_factory=dict)  # linear layers by format
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: int = 0

    @property
    def decoder(self) -> PartReport:
        return self.parts[DECODER]

    def to_dict(self) -> dict[str, Any]:
        decoder, vision = self.decoder, self.parts.get(VISION)
        return {
            "output": str(self.output),
            "model": vars(self.model),
            "passes": [vars(p) for p in decoder.lowering.passes],
            "layers": decoder.layers,
            "layers_converted": decoder.converted,
            "weight_bytes": decoder.weight_bytes,
            "quantized_layers": self.quantized,
            "vision_passes": [] if vision is None else [vars(p) for p in vision.lowering.passes],
            "vision_layers": 0 if vision is None else vision.layers,
            "vision_weight_bytes": 0 if vision is None else vision.weight_bytes,
            "engines": [vars(e) for e in self.engines],
            "seconds": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
        }

    def render(self) -> str:
        """A short page for the terminal."""
        stages = "  ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        lines = [
            f"{self.output}: {self.model.architecture}, {self.model.parameters / 1e6:,.1f} M parameters",
            *(
                f"  {'network' if name == DECODER else name:<8} {part.layers} layers ({part.converted} before tidying), "
                f"{part.weight_bytes / 1e6:,.1f} MB of weights"
                for name, part in sorted(self.parts.items(), key=lambda item: item[0] != DECODER)
            ),
            *(f"  quant    {name}: {count} linear layers" for name, count in self.quantized.items()),
            *(
                f"  engine   {e.compute_capability}{'' if e.part == DECODER else f' ({e.part})'}, {_build_of(e)}"
                for e in self.engines
            ),
            f"  seconds  {stages}; peak memory {self.peak_rss_mb:,} MiB",
        ]
        if not self.engines:
            hint = _ADD_ENGINE_WITH_PLUGINS if self.config.needs_plugins else _ADD_ENGINE
            lines.insert(-1, f"  engine   none: {hint}")
        return "\n".join(lines)


def _build_of(engine: EngineRecord) -> str:
    how = f"{engine.flavour} {engine.tensorrt_version}, built{engine.replaced}"
    return f"{engine.bytes / 1e6:,.1f} MB in {engine.build_seconds:.1f} s ({how})"
