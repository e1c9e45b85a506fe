"""The passes of each backend, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.fx import GraphModule

from tt_edge.config import Backend, CompileConfig, Int4Gemm, Layout
from tt_edge.contract import VisionGeometry
from tt_edge.lowering.base import LoweringContext, LoweringPass, PassRecord
from tt_edge.lowering.checks.check_token_independence import CheckTokenIndependence
from tt_edge.lowering.cleanup.align_constants import AlignConstants
from tt_edge.lowering.cleanup.broadcast_repeats import BroadcastRepeats
from tt_edge.lowering.cleanup.canonicalize_graph import CanonicalizeGraph
from tt_edge.lowering.cleanup.conv1d_as_conv2d import Conv1dAsConv2d
from tt_edge.lowering.cleanup.decompose_norms import DecomposeNorms
from tt_edge.lowering.cleanup.decompose_unsupported import DecomposeUnsupported
from tt_edge.lowering.cleanup.fold_constants import FoldConstants
from tt_edge.lowering.cleanup.fuse_rms_norm import FuseRmsNorm
from tt_edge.lowering.cleanup.fuse_shuffles import FuseShuffles
from tt_edge.lowering.cleanup.join_slices import JoinSlices
from tt_edge.lowering.cleanup.replace_linears import ReplaceLinears
from tt_edge.lowering.decoder.expand_rotary import ExpandRotary
from tt_edge.lowering.decoder.insert_kv_cache import InsertKVCache
from tt_edge.lowering.decoder.insert_static_cache import InsertStaticCache
from tt_edge.lowering.decoder.mask_entries import MaskEntries
from tt_edge.lowering.decoder.move_logits_to_last_token import MoveLogitsToLastToken
from tt_edge.lowering.decoder.replace_ids_with_embeddings import ReplaceIdsWithEmbeddings
from tt_edge.lowering.decoder.select_top_logits import SelectTopLogits
from tt_edge.lowering.decoder.tabulate_rotary import TabulateRotary
from tt_edge.lowering.dump import GraphDump
from tt_edge.lowering.plugin.insert_attention_plugin import InsertAttentionPlugin
from tt_edge.lowering.plugin.insert_int4_plugin import InsertInt4Plugin
from tt_edge.lowering.plugin.insert_vit_attention_plugin import InsertVitAttentionPlugin
from tt_edge.lowering.seq2seq.insert_cross_attention import InsertCrossAttention
from tt_edge.lowering.seq2seq.insert_encoder_attention import InsertEncoderAttention
from tt_edge.lowering.seq2seq.insert_merged_cache import InsertMergedCache
from tt_edge.lowering.seq2seq.limit_half_precision import LimitHalfPrecision
from tt_edge.lowering.vision.insert_vision_attention import InsertVisionAttention
from tt_edge.lowering.vision.replace_patch_convolution import ReplacePatchConvolution


def passes_for(config: CompileConfig) -> list[LoweringPass]:
    """The lowering passes of ``config``'s backend, in the order they run."""
    attention: dict[Backend, list[LoweringPass]] = {
        Backend.NATIVE: [TabulateRotary(), InsertKVCache()],
        Backend.SDPA: [TabulateRotary(), ExpandRotary(), InsertStaticCache()],
        Backend.PLUGIN: [InsertAttentionPlugin()],
    }
    return [
        CanonicalizeGraph(),
        CheckTokenIndependence(),
        FoldConstants(),
        MaskEntries(),
        FuseRmsNorm(),
        MoveLogitsToLastToken(),
        *_selecting(config),
        *attention[config.attention.backend],
        *([InsertInt4Plugin()] if config.quantization.int4_gemm is Int4Gemm.PLUGIN else []),
        *([ReplaceIdsWithEmbeddings()] if config.network.layout is Layout.EDGE_LLM else []),
        *_tidying(),
    ]


def encoder_passes(tokens: str | None) -> list[LoweringPass]:
    """The lowering passes of an encoder, in the order they run. ``tokens`` is its input of token ids; ``None`` for a source of
    fixed size."""
    return [
        CanonicalizeGraph(),
        LimitHalfPrecision(),
        *([CheckTokenIndependence(tokens)] if tokens is not None else []),
        DecomposeNorms(),
        FoldConstants(),
        Conv1dAsConv2d(),
        FuseRmsNorm(),
        InsertEncoderAttention(tokens),
        *_tidying(),
    ]


def seq2seq_decoder_passes(config: CompileConfig, *, fixed: bool, merged: bool = False) -> list[LoweringPass]:
    """The lowering passes of the decoder of an encoder-decoder, in the order they run. ``fixed``: its sources have one size.
    ``merged``: its attention sees answer and source in one softmax."""
    native = config.attention.backend is Backend.NATIVE
    apart = [InsertCrossAttention(fixed=fixed), InsertKVCache() if native else InsertStaticCache()]
    return [
        CanonicalizeGraph(),
        LimitHalfPrecision(),
        CheckTokenIndependence(),
        FoldConstants(),
        FuseRmsNorm(),
        MoveLogitsToLastToken(),
        *_selecting(config),
        TabulateRotary(),
        *([] if native else [ExpandRotary()]),
        *([InsertMergedCache()] if merged else apart),
        *_tidying(),
    ]


def _selecting(config: CompileConfig) -> list[LoweringPass]:
    count = config.network.top_logits
    return [] if count is None else [SelectTopLogits(count)]


def _tidying() -> list[LoweringPass]:
    return [
        BroadcastRepeats(),
        JoinSlices(),
        FuseShuffles(),
        AlignConstants(),
        ReplaceLinears(),
        DecomposeUnsupported(),
    ]


def vision_passes(geometry: VisionGeometry) -> list[LoweringPass]:
    """The lowering passes of a vision tower, in the order they run."""
    return [
        CanonicalizeGraph(),
        DecomposeNorms(),
        FoldConstants(),
        ReplacePatchConvolution(),
        FuseRmsNorm(),
        InsertVitAttentionPlugin(geometry) if geometry.ragged else InsertVisionAttention(),
        *_tidying(),
    ]


@dataclass(frozen=True)
class LoweringReport:
    """The results of the passes, in order."""

    passes: tuple[PassRecord, ...]

    def render(self) -> str:
        """A table: pass, matches, milliseconds, operator nodes afterwards."""
        width = max(len(p.name) for p in self.passes) + 1
        lines = [f"{'pass':<{width}}{'matches':>8}{'ms':>8}{'nodes':>8}"]
        lines += [f"{p.name:<{width}}{p.matches:>8}{p.seconds * 1000:>8.0f}{p.nodes:>8}" for p in self.passes]
        return "\n".join(lines)


def lower(
    module: GraphModule, passes: Sequence[LoweringPass], context: LoweringContext, dump: Path | None = None
) -> LoweringReport:
    """Run ``passes`` on ``module`` in place; ``dump`` is a folder for the graph before and after each pass that changed it.

    Raises ``InvalidInputError`` when that folder is not empty, ``LoweringError`` when a pass does not find what it
    requires, and ``UnsupportedModelError`` when the backend cannot express a part of the graph.
    """
    graphs = None if dump is None else GraphDump(dump)
    report = LoweringReport(tuple(run(module, context, graphs) for run in passes))
    module.recompile()
    return report
