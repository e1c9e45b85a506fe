"""The passes of each backend, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import GraphModule

from tt_edge.config import Backend, CompileConfig, Int4Gemm, Layout
from tt_edge.lowering.base import LoweringContext, LoweringPass, PassRecord
from tt_edge.lowering.checks.tokens_apart import TokensApart
from tt_edge.lowering.cleanup.align_constants import AlignConstants
from tt_edge.lowering.cleanup.canonicalize import Canonicalize
from tt_edge.lowering.cleanup.decompose_unsupported import DecomposeUnsupported
from tt_edge.lowering.cleanup.fold_constants import FoldConstants
from tt_edge.lowering.cleanup.fuse_shuffles import FuseShuffles
from tt_edge.lowering.cleanup.rms_norm import FuseRmsNorm
from tt_edge.lowering.decoder.embedding_input import EmbeddingInput
from tt_edge.lowering.decoder.last_token_logits import LastTokenLogits
from tt_edge.lowering.decoder.native_attention import NativeAttention
from tt_edge.lowering.decoder.rotary_arithmetic import RotaryArithmetic
from tt_edge.lowering.decoder.rotary_tables import RotaryTables
from tt_edge.lowering.decoder.static_cache import StaticCache
from tt_edge.lowering.plugin.int4_plugin import Int4Plugin
from tt_edge.lowering.plugin.plugin_attention import PluginAttention
from tt_edge.lowering.plugin.vision_plugin_attention import VisionPluginAttention
from tt_edge.lowering.vision.patch_linear import PatchLinear
from tt_edge.lowering.vision.vision_attention import VisionAttention
from tt_edge.vision_contract import VisionGeometry


def passes_for(config: CompileConfig) -> list[LoweringPass]:
    """The lowering passes of ``config``'s backend, in the order they run."""
    attention: dict[Backend, list[LoweringPass]] = {
        Backend.NATIVE: [RotaryTables(), NativeAttention()],
        Backend.SDPA: [RotaryTables(), RotaryArithmetic(), StaticCache()],
        Backend.PLUGIN: [PluginAttention()],
    }
    return [
        Canonicalize(),
        TokensApart(),
        FoldConstants(),
        FuseRmsNorm(),
        LastTokenLogits(),
        *attention[config.backend],
        *([Int4Plugin()] if config.int4_gemm is Int4Gemm.PLUGIN else []),
        *([EmbeddingInput()] if config.layout is Layout.EDGE_LLM else []),
        FuseShuffles(),
        AlignConstants(),
        DecomposeUnsupported(),
    ]


def vision_passes(geometry: VisionGeometry) -> list[LoweringPass]:
    """The lowering passes of a vision tower, in the order they run."""
    return [
        Canonicalize(),
        FoldConstants(),
        PatchLinear(),
        FuseRmsNorm(),
        VisionPluginAttention(geometry) if geometry.ragged else VisionAttention(),
        FuseShuffles(),
        AlignConstants(),
        DecomposeUnsupported(),
    ]


@dataclass(frozen=True)
class LoweringReport:
    """What each pass did, in order."""

    passes: tuple[PassRecord, ...]

    def render(self) -> str:
        """A table: pass, matches, milliseconds, operator nodes afterwards."""
        lines = [f"{'pass':<20}{'matches':>8}{'ms':>8}{'nodes':>8}"]
        lines += [f"{p.name:<20}{p.matches:>8}{p.seconds * 1000:>8.0f}{p.nodes:>8}" for p in self.passes]
        return "\n".join(lines)


def lower(module: GraphModule, passes: Sequence[LoweringPass], context: LoweringContext) -> LoweringReport:
    """Run ``passes`` on ``module`` in place.

    Raises ``LoweringError`` when a pass misses something that must be there and ``UnsupportedModelError`` when the
    backend cannot express something that is.
    """
    report = LoweringReport(tuple(run(module, context) for run in passes))
    module.recompile()
    return report
