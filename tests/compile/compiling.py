"""From a Hugging Face module to a tidied network, as the pipeline does it; and models that several tests share."""

from __future__ import annotations

from functools import lru_cache

import torch
from transformers import PreTrainedModel

from tests.compile.compiled_once import compiled_once
from tests.compile.exported_once import exported_once
from tests.models.tiny_models import tiny_model
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.parity import PyTorchReference
from tt_edge.compile.part import CompiledPart
from tt_edge.config import CompileConfig, Precision


class _SharedExport(DecoderCompiler):
    """Traces a model once for all backends."""

    export = exported_once(DecoderCompiler.export)


def compiled(model: PreTrainedModel, precision: Precision = Precision.FP32, **settings: object) -> CompiledPart:
    """Three rows, prompts of 64 and sequences of 128 tokens, unless ``settings`` say otherwise."""
    limits = {"max_batch": 3, "max_input_len": 64, "max_seq_len": 128}
    config = CompileConfig.of(precision=precision, **{**limits, **settings})  # type: ignore[arg-type]
    return compiled_once(_SharedExport(model, config, "tiny"))


@lru_cache(maxsize=16)
def shared(family: str, precision: Precision = Precision.FP32, **overrides: int) -> PyTorchReference:
    """A tiny model, what ``generate()`` answers, and its exported graph, for tests that come one after the other."""
    return PyTorchReference(tiny_model(family, dtype=getattr(torch, precision.dtype.value), **overrides), precision)
