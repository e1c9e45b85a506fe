"""Compiling the two parts of an encoder-decoder to captured networks."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from tt_edge.bundle.manifest import DECODER, ENCODER
from tt_edge.compile.export.semantics import own_attention, semantic_attention
from tt_edge.compile.export.trace import trace
from tt_edge.compile.interface import read_contract, top_outputs
from tt_edge.compile.part import PartCompiler
from tt_edge.compile.seq2seq.half_precision import unconditional_limits
from tt_edge.compile.seq2seq.model import Seq2Seq, SourceDecoder, SourceEncoder
from tt_edge.compile.seq2seq.own_attention import bart_attention
from tt_edge.compile.seq2seq.positions import Positions
from tt_edge.config import Cache, CompileConfig
from tt_edge.contract import SOURCE_IDS, IOContract
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.base import LoweringContext, LoweringPass
from tt_edge.lowering.pipeline import encoder_passes, seq2seq_decoder_passes

# Sizes of the traced example: distinct from each other and from 1, so that no dimension is specialised by accident.
_BATCH, _SEQUENCE, _SOURCE = 2, 7, 11


class _Seq2SeqPart(PartCompiler):
    def __init__(self, parts: Seq2Seq, config: CompileConfig, network_name: str = "model") -> None:
        super().__init__(parts.model, config, network_name)
        self.parts = parts

    def positions(self) -> Positions:
        limits = self.config.limits
        source = (limits.max_source_len or 0) if self.parts.takes_text else 0
        return Positions(self.model, source, limits.max_seq_len)

    def what(self) -> str:
        return f"the {self.name} of {type(self.model).__name__}"

    def explain(self, error: Exception) -> None:
        """Raise ``UnsupportedModelError`` for a model that the exporter cannot trace at any length."""
        if "Constraints violated" in str(error) or "data-dependent" in str(error):
            raise UnsupportedModelError(
                f"{self.what()} divides its tokens into blocks, or chooses by their number or values what it computes, which no "
                "backend has"
            ) from error

    def check_attention(self, exported: GraphModule) -> None:
        """Raise ``UnsupportedModelError`` for a model whose tokens see each other outside transformers' attention interface."""
        if not exported.graph.find_nodes(op="call_function", target=torch.ops.tt_edge.attention.default):
            half = self.model.get_encoder() if self.name == ENCODER else self.model.get_decoder()
            raise own_attention(f"{type(half).__name__}, the {self.name} of {type(self.model).__name__},")


class EncoderCompiler(_Seq2SeqPart):
    """The encoder: a source to the keys and values of attention to it, for all decoder layers."""

    name = ENCODER

    def export(self) -> GraphModule:
        source = self.parts.example_source(_BATCH, _SOURCE)
        dynamic = {0: torch.export.Dim("batch")}
        if self.parts.takes_text:
            dynamic[1] = torch.export.Dim("source", max=self.config.limits.max_source_len)
        module = SourceEncoder(self.parts, self.positions())
        with semantic_attention(self.model), bart_attention(self.model), unconditional_limits():
            exported = trace(module, (source,), {}, (dynamic,), self.what(), self.explain)
        if self.parts.takes_text:
            self.check_attention(exported)
        (placeholder,) = exported.graph.find_nodes(op="placeholder")
        placeholder.target = placeholder.name = self.parts.source
        exported.graph.eliminate_dead_code()  # the decoder, but for what it takes from the encoder
        return exported

    def passes(self) -> list[LoweringPass]:
        return encoder_passes(SOURCE_IDS if self.parts.takes_text else None)

    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        return read_contract(module, self.parts.cross_names, self.config.limits)


class Seq2SeqDecoderCompiler(_Seq2SeqPart):
    """The decoder: tokens to logits, with a cache of its own and the keys and values of the source as inputs."""

    name = DECODER

    def __init__(self, parts: Seq2Seq, config: CompileConfig, network_name: str = "model") -> None:
        super().__init__(parts, config, network_name)
        self.decoder_layers = parts.layers

    def export(self) -> GraphModule:
        parts = self.parts
        heads, _, size = parts.cross_shape
        places = self.config.limits.max_source_len
        assert places is not None
        names = parts.cross_names
        cross = [torch.zeros(_BATCH, heads, places, size, dtype=self.model.dtype) for _ in names]
        positions = torch.arange(_SEQUENCE).expand(_BATCH, _SEQUENCE)
        batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
        tokens = {0: batch, 1: sequence}
        module = SourceDecoder(parts, self.positions())
        with semantic_attention(self.model), bart_attention(self.model), unconditional_limits():
            exported = trace(
                module,
                (torch.zeros(_BATCH, _SEQUENCE, dtype=torch.int64), positions.contiguous(), *cross),
                {},
                (tokens, tokens, tuple({0: batch} for _ in names)),
                self.what(),
                self.explain,
            )
        self.check_attention(exported)
        inputs = exported.graph.find_nodes(op="placeholder")
        for node, name in zip(inputs, ("input_ids", "position_ids", *names), strict=True):
            node.target = node.name = name
        if not inputs[1].users and not module.positions.has_bias:
            raise UnsupportedModelError(
                f"the decoder of {type(self.model).__name__} counts positions in a way of its own, which tt-edge does not find; "
                "please report the model type"
            )
        return exported

    def passes(self) -> list[LoweringPass]:
        return seq2seq_decoder_passes(self.config, fixed=not self.parts.takes_text)

    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        return read_contract(
            module,
            ["logits", *top_outputs(self.config), *(present for _, present in context.kv_cache)],
            self.config.limits,
            kv_cache=context.kv_cache,
            kv_in_place=self.config.attention.cache is Cache.IN_PLACE,
            single_profile=self.config.network.single_profile,
        )
