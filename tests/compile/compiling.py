"""From a Hugging Face module to a tidied network, as the pipeline does it."""

from __future__ import annotations

from transformers import PreTrainedModel

from tt_edge.compile.convert import Converted, convert, converters
from tt_edge.compile.export.decoder import export_decoder
from tt_edge.config import CompileConfig, Precision
from tt_edge.lowering.base import LoweringContext
from tt_edge.lowering.pipeline import lower, passes_for
from tt_edge.network.simplify import simplify


def compiled(model: PreTrainedModel, precision: Precision = Precision.FP32, **settings: object) -> Converted:
    """Three rows, prompts of 64 and sequences of 128 tokens, unless ``settings`` say otherwise."""
    limits = {"max_batch": 3, "max_input_len": 64, "max_seq_len": 128}
    config = CompileConfig(precision=precision, **{**limits, **settings})  # type: ignore[arg-type]
    module = export_decoder(model, config.max_seq_len)
    context = LoweringContext(config, model.config.num_hidden_layers, converters=converters())
    lower(module, passes_for(config), context)
    converted = convert(module, context, "tiny")
    simplify(converted.network)
    return converted
