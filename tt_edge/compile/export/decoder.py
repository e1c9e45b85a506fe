"""Exporting the Hugging Face module as it is, with semantic operators and dynamic batch and sequence."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from transformers import PreTrainedModel

from tt_edge.compile.export.semantics import constant_rope, semantic_attention, semantic_rotary
from tt_edge.compile.vision.decoder import ImageDecoder
from tt_edge.compile.vision.families import family_of
from tt_edge.errors import UnsupportedModelError

# Sizes of the traced example. They are distinct from each other and from 1, so that no dimension is specialised by
# accident, and the exported graph holds for all others.
_BATCH, _SEQUENCE = 2, 7

# What configurations call the number of experts.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


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


def export_decoder(model: PreTrainedModel, max_seq_len: int, image_rows: int = 0) -> GraphModule:
    """Export a decoder to an FX graph of ATen and ``tt_edge`` operators.

    Placeholders ``input_ids`` and ``position_ids`` ``[B, S]`` int64; output logits ``[B, S, V]``; weights are ``get_attr``
    nodes that share storage with ``model``. Of a vision-language model it is the language part, with two more
    placeholders, ``image_indices`` and ``image_features`` (``tt_edge.contract``), the latter of ``image_rows`` rows.
    Raises ``UnsupportedModelError`` when the model cannot be traced.
    """
    if experts := next((n for n in _EXPERTS if getattr(model.config, n, None)), None):
        raise UnsupportedModelError(
            f"{type(model).__name__} is a mixture of experts ({experts} {getattr(model.config, experts)}), which no backend has; "
            "compile a dense model"
        )
    family = family_of(model)
    module: _LogitsOnly | ImageDecoder
    traceable: AbstractContextManager[None]
    if family is None:
        module = _LogitsOnly(model)
        example, traceable = module.example(_BATCH, _SEQUENCE), nullcontext()
    else:
        module = ImageDecoder(model, family)
        example, traceable = module.example(_BATCH, _SEQUENCE, image_rows), module.traceable()
    dims = (torch.export.Dim("batch"), torch.export.Dim("sequence"))
    dynamic = [
        {tensor.ndim - 2 + i: dim for i, dim in enumerate(dims)} if tensor.shape[-2:] == (_BATCH, _SEQUENCE) else None
        for tensor in example.values()
    ]
    named = [p for p in inspect.signature(module.forward).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    shapes, rest = dynamic[: len(named)], dynamic[len(named) :]
    with (
        traceable,
        constant_rope(model, max_seq_len),
        semantic_attention(model),
        semantic_rotary(model),
        torch.no_grad(),
        patch.object(
            torch.fx.config, "do_not_emit_stack_traces", True
        ),  # a tenth of the time, and nothing here reads them
    ):
        try:
            program = torch.export.export(
                module,
                tuple(example.values()),
                dynamic_shapes=(*shapes, *([tuple(rest)] if rest else [])),  # those of *args are one tuple
                strict=False,
            )
        except UnsupportedModelError:
            raise
        except Exception as error:
            if isinstance(error.__cause__, UnsupportedModelError):
                raise error.__cause__ from error
            _explain_attention(model, error)
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UnsupportedModelError(
                f"{type(model).__name__} cannot be traced by torch.export: {reason}; run with --debug for where"
            ) from error
    if any(_mutates(node) for node in program.graph.nodes):
        # Qwen3-VL writes into slices of its angles. Otherwise there is nothing to gain, and it traces everything again.
        program = program.run_decompositions({})
    exported = program.module(check_guards=False)
    if not exported.graph.find_nodes(op="call_function", target=torch.ops.tt_edge.attention.default):
        _explain_attention(model)
    # A plain GraphModule over the same parameters, without the exporter's checks of its inputs: passes add inputs.
    return GraphModule(exported, exported.graph)


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _explain_attention(model: PreTrainedModel, cause: Exception | None = None) -> None:
    """Raise ``UnsupportedModelError`` if the model computes its attention by itself."""
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} computes attention by itself, not through transformers' attention interface, which is "
            "where tt-edge finds it (ALiBi, state-space and older models); no backend has it"
        ) from cause
