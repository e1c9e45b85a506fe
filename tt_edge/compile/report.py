"""What a compile did, for the terminal and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.bundle.manifest import EngineRecord, ModelIdentity, Part
from tt_edge.config import CompileConfig

if TYPE_CHECKING:
    from tt_edge.lowering.pipeline import LoweringReport

_OF_PART = {Part.VISION.value: " (vision)"}
_ADD_ENGINE = "add --engine sm89 (or the target's), or build on the target"
_ADD_ENGINE_WITH_PLUGINS = (
    "build where standard TensorRT and the plugin library are; the plugin itself is not executed here"
)


@dataclass
class CompileReport:
    """What a compile did.

    ``layers`` are those of the captured network, ``converted`` those before tidying, ``engine_layers`` those of the
    ``INetworkDefinition`` that was built (an attention is two there). ``seconds`` are by stage.
    """

    output: Path
    model: ModelIdentity
    config: CompileConfig
    lowering: LoweringReport
    converted: int
    layers: int
    weight_bytes: int
    engines: list[EngineRecord] = field(default_factory=list)
    engine_layers: int = 0
    quantized: dict[str, int] = field(default_factory=dict)  # linear layers by format
    vision_layers: int = 0  # of a vision-language model's tower
    vision_weight_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_mb: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "model": vars(self.model),
            "passes": [vars(p) for p in self.lowering.passes],
            "layers": self.layers,
            "layers_converted": self.converted,
            "weight_bytes": self.weight_bytes,
            "quantized_layers": self.quantized,
            "vision_layers": self.vision_layers,
            "vision_weight_bytes": self.vision_weight_bytes,
            "engines": [vars(e) for e in self.engines],
            "seconds": self.seconds,
            "peak_rss_mb": self.peak_rss_mb,
        }

    def render(self) -> str:
        """A short page for the terminal."""
        stages = "  ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        lines = [
            f"{self.output}: {self.model.architecture}, {self.model.parameters / 1e6:,.1f} M parameters",
            f"  network  {self.layers} layers ({self.converted} before tidying), {self.weight_bytes / 1e6:,.1f} MB of weights",
            *(
                [f"  vision   {self.vision_layers} layers, {self.vision_weight_bytes / 1e6:,.1f} MB of weights"]
                if self.vision_layers
                else []
            ),
            *(f"  quant    {name}: {count} linear layers" for name, count in self.quantized.items()),
            *(
                f"  engine   {e.compute_capability}{_OF_PART.get(e.part, '')}, {e.bytes / 1e6:,.1f} MB in {e.build_seconds:.1f} s "
                f"({e.flavour} {e.tensorrt_version}, built)"
                for e in self.engines
            ),
            f"  seconds  {stages}; peak memory {self.peak_rss_mb:,} MiB",
        ]
        if not self.engines:
            hint = _ADD_ENGINE_WITH_PLUGINS if self.config.needs_plugins else _ADD_ENGINE
            lines.insert(-1, f"  engine   none: {hint}")
        return "\n".join(lines)
