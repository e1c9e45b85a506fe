"""Exporting the unmodified Hugging Face module, with semantic operators and dynamic batch and sequence."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers import PreTrainedModel

from tt_edge.bundle.manifest import DECODER
from tt_edge.compile.export.features import check_features
from tt_edge.compile.export.semantics import constant_rope, own_attention, semantic_attention, semantic_rotary
from tt_edge.compile.export.trace import trace
from tt_edge.compile.interface import read_contract, top_outputs
from tt_edge.compile.part import PartCompiler
from tt_edge.compile.vision.decoder import ImageDecoder
from tt_edge.compile.vision.families import Blocks, family_of
from tt_edge.config import Cache, CompileConfig
from tt_edge.contract import IOContract
from tt_edge.lowering.base import LoweringContext, LoweringPass
from tt_edge.lowering.pipeline import passes_for

# Sizes of the traced example. They are distinct from each other and from 1, so that no dimension is specialised by
# accident, and the exported graph holds for all others.
_BATCH, _SEQUENCE = 2, 7


class _LogitsOnly(nn.Module):
    """The model's forward as the engine sees it: token ids and positions in, logits out, no cache object."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """``input_ids`` and ``position_ids`` ``[B, S]`` int64 to logits ``[B, S, V]``."""
        logits: Tensor = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
        return logits

    def example(self, batch: int, sequence: int) -> dict[str, Tensor]:
        """Inputs to trace with."""
        positions = torch.arange(sequence).expand(batch, sequence)
        return {"input_ids": torch.zeros(batch, sequence, dtype=torch.int64), "position_ids": positions}


class DecoderCompiler(PartCompiler):
    """The decoder of a language model, or of a vision-language model.

    Placeholders ``input_ids`` and ``position_ids`` ``[B, S]`` int64; output logits ``[B, S, V]``; weights are ``get_attr``
    nodes that share storage with the model. For a vision-language model it is the language part, with more placeholders:
    ``image_indices`` and the feature tables (``tt_edge.contract.inputs``).
    """

    name = DECODER

    def __init__(
        self,
        model: PreTrainedModel,
        config: CompileConfig,
        network_name: str = "model",
        kv_scales: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        super().__init__(model, config, network_name)
        self.decoder_layers = int(model.config.get_text_config().num_hidden_layers)
        self.kv_scales = kv_scales

    def passes(self) -> list[LoweringPass]:
        return passes_for(self.config)

    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        return read_contract(
            module,
            ["logits", *top_outputs(self.config), *(present for _, present in context.kv_cache)],
            self.config.limits,
            kv_cache=context.kv_cache,
            kv_in_place=self.config.attention.cache is Cache.IN_PLACE,
            single_profile=self.config.network.single_profile,
        )

    def export(self) -> GraphModule:
        model, limits = self.model, self.config.limits
        check_features(model.config, type(model).__name__)
        family = family_of(model)
        self.blocks = family is not None and family.blocks is not Blocks.NONE
        self.window_blocks = family is not None and family.blocks is Blocks.IMAGE_IN_WINDOWS
        module: _LogitsOnly | ImageDecoder
        traceable: AbstractContextManager[None]
        if family is None:
            module = _LogitsOnly(model)
            example, traceable = module.example(_BATCH, _SEQUENCE), nullcontext()
        else:
            module = ImageDecoder(model, family)
            rows = limits.max_batch * (limits.max_image_tokens or 0)
            example, traceable = module.example(_BATCH, _SEQUENCE, rows), module.traceable()
        with (
            traceable,
            constant_rope(model, limits.max_seq_len),
            semantic_attention(model),
            semantic_rotary(model),
        ):
            exported = trace(
                module,
                tuple(example.values()),
                {},
                _dynamic_shapes(module, example),
                type(model).__name__,
                explain=partial(_explain_attention, model),
            )
        if not exported.graph.find_nodes(op="call_function", target=torch.ops.tt_edge.attention.default):
            _explain_attention(model)
        return exported


def _dynamic_shapes(module: nn.Module, example: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Batch and sequence are dynamic where an input has both, last; those of ``*args`` are one tuple."""
    dims = (torch.export.Dim("batch"), torch.export.Dim("sequence"))
    dynamic = [
        {tensor.ndim - 2 + i: dim for i, dim in enumerate(dims)} if tensor.shape[-2:] == (_BATCH, _SEQUENCE) else None
        for tensor in example.values()
    ]
    named = [p for p in inspect.signature(module.forward).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    shapes, rest = dynamic[: len(named)], dynamic[len(named) :]
    return (*shapes, *([tuple(rest)] if rest else []))


def _explain_attention(model: PreTrainedModel, cause: Exception | None = None) -> None:
    """Raise ``UnsupportedModelError`` if the model does not use transformers' attention interface."""
    if not getattr(model, "_supports_attention_backend", False):
        raise own_attention(type(model).__name__) from cause
