"""From a Hugging Face module to a tidied network, as the pipeline does it; and models that several tests share."""

from __future__ import annotations

import copy
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch.fx import GraphModule
from transformers import PreTrainedModel

from tests.compile.compiled_once import compiled_once
from tests.tiny_models import tiny_model
from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.parity import PyTorchReference
from tt_edge.compile.part import CompiledPart
from tt_edge.config import CompileConfig, Limits, Precision

_EXPORTED: WeakKeyDictionary[PreTrainedModel, dict[Limits, GraphModule]] = WeakKeyDictionary()


class _SharedExport(DecoderCompiler):
    """Traces a model once for all backends: the exported graph depends on the model and the limits only."""

    def export(self) -> GraphModule:
        exported = _EXPORTED.setdefault(self.model, {})
        if self.config.limits not in exported:
            exported[self.config.limits] = super().export()
        module = copy.deepcopy(exported[self.config.limits])  # passes change it
        for node in module.graph.nodes:  # copies share it, and torch_tensorrt's converters take modules out of it
            if "nn_module_stack" in node.meta:
                node.meta["nn_module_stack"] = dict(node.meta["nn_module_stack"])
        return module


def compiled(model: PreTrainedModel, precision: Precision = Precision.FP32, **settings: object) -> CompiledPart:
    """Three rows, prompts of 64 and sequences of 128 tokens, unless ``settings`` say otherwise."""
    limits = {"max_batch": 3, "max_input_len": 64, "max_seq_len": 128}
    config = CompileConfig.of(precision=precision, **{**limits, **settings})  # type: ignore[arg-type]
    return compiled_once(_SharedExport(model, config, "tiny"))


@lru_cache(maxsize=16)
def shared(family: str, precision: Precision = Precision.FP32, **overrides: int) -> PyTorchReference:
    """A tiny model, what ``generate()`` answers, and its exported graph, for tests that come one after the other."""
    return PyTorchReference(tiny_model(family, dtype=getattr(torch, precision.dtype.value), **overrides), precision)
