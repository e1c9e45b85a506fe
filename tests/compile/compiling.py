"""From a Hugging Face module to a tidied network, as the pipeline does it."""

from __future__ import annotations

from transformers import PreTrainedModel

from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.part import CompiledPart
from tt_edge.config import CompileConfig, Precision


def compiled(model: PreTrainedModel, precision: Precision = Precision.FP32, **settings: object) -> CompiledPart:
    """Three rows, prompts of 64 and sequences of 128 tokens, unless ``settings`` say otherwise."""
    limits = {"max_batch": 3, "max_input_len": 64, "max_seq_len": 128}
    config = CompileConfig.of(precision=precision, **{**limits, **settings})  # type: ignore[arg-type]
    return DecoderCompiler(model, config, "tiny").compile()
