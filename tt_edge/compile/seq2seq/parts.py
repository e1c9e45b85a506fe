"""Compiling the two parts of an encoder-decoder to captured networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import sympy
import torch
from torch.fx import GraphModule

from tt_edge.bundle.manifest import DECODER, ENCODER
from tt_edge.compile.export.semantics import constant_rope, own_attention, semantic_attention, semantic_rotary
from tt_edge.compile.export.trace import trace
from tt_edge.compile.interface import read_contract, top_outputs
from tt_edge.compile.limits import SHORTEST_SOURCE
from tt_edge.compile.part import PartCompiler
from tt_edge.compile.seq2seq.embeddings import chosen_embeddings
from tt_edge.compile.seq2seq.experts import every_expert
from tt_edge.compile.seq2seq.half_precision import unconditional_limits
from tt_edge.compile.seq2seq.image_text import decoder_of
from tt_edge.compile.seq2seq.model import Seq2Seq, SourceDecoder, SourceEncoder
from tt_edge.compile.seq2seq.own_attention import emitted_attention
from tt_edge.compile.seq2seq.positions import Positions
from tt_edge.compile.seq2seq.speech import descending_ranges
from tt_edge.config import Backend, Cache, CompileConfig
from tt_edge.contract import PAGE_PIXELS, QUESTION_IDS, SOURCE_IDS, IOContract
from tt_edge.errors import UnsupportedModelError
from tt_edge.lowering.attention_call import ATTENTION, MERGED_ATTENTION, AttentionCall
from tt_edge.lowering.base import LoweringContext, LoweringPass, calls
from tt_edge.lowering.pipeline import encoder_passes, seq2seq_decoder_passes

# Sizes of the traced example: distinct from each other and from 1, so that no dimension is specialised by accident. The
# source has the first of its sizes that the limit allows.
_BATCH, _SEQUENCE, _SOURCES = 2, 7, (11, 10, 9, 8, 6, 5, 4, SHORTEST_SOURCE)


class _Seq2SeqPart(PartCompiler):
    def __init__(self, parts: Seq2Seq, config: CompileConfig, network_name: str = "model") -> None:
        super().__init__(parts.model, config, network_name)
        self.parts = parts
        self.refused_ids: tuple[int, ...] = ()

    def positions(self) -> Positions:
        limits = self.config.limits
        source = 0 if self.parts.fixed_size else limits.max_source_len or 0
        speech = None if self.parts.subsampling is None else self.parts.example_source(1, source)
        return Positions(self.model, source, limits.max_seq_len, speech)

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, the model is traced as it answers to sources and in answers of the limits' lengths.

        The encoder's part runs the decoder, too, on one token.
        """
        encoder, decoder, limits = self.model.get_encoder(), decoder_of(self.model), self.config.limits
        source = limits.max_source_len or 0
        with (
            constant_rope(encoder, source),
            constant_rope(decoder, limits.max_seq_len),
            semantic_attention(self.model),
            emitted_attention(self.model),
            every_expert(encoder, source),
            every_expert(decoder, 1),
            chosen_embeddings(self.model),
            unconditional_limits(),
        ):
            yield

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
        if not exported.graph.find_nodes(op="call_function", target=ATTENTION):
            half = self.model.get_encoder() if self.name == ENCODER else decoder_of(self.model)
            raise own_attention(f"{type(half).__name__}, the {self.name} of {type(self.model).__name__},")


class EncoderCompiler(_Seq2SeqPart):
    """The encoder: a source to the keys and values of attention to it, for all decoder layers."""

    name = ENCODER

    def export(self) -> GraphModule:
        parts, most = self.parts, self.config.limits.max_source_len
        single = parts.subsampling is not None or parts.image is not None
        # A page may have fewer places than any of them; its example has the page's size.
        length = next((size for size in _SOURCES if most is None or size <= most), SHORTEST_SOURCE)
        source = parts.example_source(1 if single else _BATCH, length)
        dynamic = {} if single else {0: torch.export.Dim("batch")}
        if parts.takes_text:
            dynamic[1] = torch.export.Dim("source", max=most)
        elif parts.subsampling is not None:
            assert most is not None
            dynamic[1] = torch.export.Dim("frames", min=parts.subsampling.least, max=parts.subsampling.fewest(most))
        module = SourceEncoder(self.parts, self.positions())
        self.refused_ids = module.positions.refused_ids if parts.takes_text else ()
        image = parts.image
        given = () if image is None else image.example()
        shapes: tuple[dict[int, torch.export.Dim], ...] = (dynamic, *({} for _ in given))
        if image is not None and image.instruction is not None:
            shapes[2][1] = torch.export.Dim("question", max=most)
        with self.traceable(), nullcontext() if image is None else image.traceable(), descending_ranges():
            export = partial(trace, module, (source, *given), {}, shapes, self.what(), self.explain)
            speech = partial(export, assumes=self._always)
            exported = export() if parts.subsampling is None else self._without_padding(speech)
        if self.parts.takes_text:
            self.check_attention(exported)
        inputs = exported.graph.find_nodes(op="placeholder")
        for placeholder, name in zip(inputs, (parts.source, PAGE_PIXELS, QUESTION_IDS), strict=False):
            placeholder.target = placeholder.name = name
        exported.graph.eliminate_dead_code()  # the decoder, but for what it takes from the encoder
        return exported

    def _always(self, condition: sympy.Basic) -> bool:
        """Whether a condition on the number of frames holds for each number of places, at the fewest and the most frames."""
        of, most = self.parts.subsampling, self.config.limits.max_source_len
        assert of is not None
        assert most is not None
        symbols = list(condition.free_symbols)
        lengths = {n for places in range(2, most + 1) for n in (of.fewest(places), of.fewest(places + 1) - 1)}
        lengths = {n for n in lengths if of.least <= n <= of.fewest(most)}
        return len(symbols) <= 1 and all(condition.subs(dict.fromkeys(symbols, n)) == True for n in lengths)  # noqa: E712

    def _without_padding(self, export: Callable[[], GraphModule]) -> GraphModule:
        """Speech has no padding, so that an encoder may compute attention with scores of its own by distance."""
        try:
            exported = export()
            exported.graph.eliminate_dead_code()
            if not any(AttentionCall.of(node).is_limited for node in calls(exported.graph, ATTENTION)):
                return exported
            raise UnsupportedModelError("its attention has more than keys and values")  # as arithmetic, it is no matter
        except UnsupportedModelError:
            encoder = self.model.get_encoder()
            before = encoder.config._attn_implementation
            encoder.set_attn_implementation("eager")
            try:
                return export()
            finally:
                encoder.set_attn_implementation(before)

    def passes(self) -> list[LoweringPass]:
        return encoder_passes(SOURCE_IDS if self.parts.takes_text else None)

    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        return read_contract(
            module,
            self.parts.cross_names,
            self.config.limits,
            subsampling=self.parts.subsampling,
            refused_ids=self.refused_ids,
        )


class Seq2SeqDecoderCompiler(_Seq2SeqPart):
    """The decoder: tokens to logits, with a cache of its own and the keys and values of the source as inputs."""

    name = DECODER

    def __init__(self, parts: Seq2Seq, config: CompileConfig, network_name: str = "model") -> None:
        super().__init__(parts, config, network_name)
        self.decoder_layers = parts.layers
        self.merged = False

    def export(self) -> GraphModule:
        parts, limits = self.parts, self.config.limits
        heads, _, size = parts.cross_shape
        places = limits.max_source_len
        assert places is not None
        names = parts.cross_names
        cross = [torch.zeros(_BATCH, heads, places, size, dtype=self.model.dtype) for _ in names]
        positions = torch.arange(_SEQUENCE).expand(_BATCH, _SEQUENCE)
        batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
        tokens = {0: batch, 1: sequence}
        module = SourceDecoder(parts, self.positions())
        with self.traceable(), semantic_rotary(self.model):
            exported = trace(
                module,
                (torch.zeros(_BATCH, _SEQUENCE, dtype=torch.int64), positions.contiguous(), *cross),
                {},
                (tokens, tokens, tuple({0: batch} for _ in names)),
                self.what(),
                self.explain,
            )
        self.merged = bool(exported.graph.find_nodes(op="call_function", target=MERGED_ATTENTION))
        if not self.merged:
            self.check_attention(exported)
        elif self.config.attention.backend is not Backend.NATIVE:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} attends to its answer and its source in one softmax, which only --backend native has"
            )
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
        return seq2seq_decoder_passes(self.config, fixed=self.parts.fixed_size is not None, merged=self.merged)

    def contract(self, module: GraphModule, context: LoweringContext) -> IOContract:
        return read_contract(
            module,
            ["logits", *top_outputs(self.config), *(present for _, present in context.kv_cache)],
            self.config.limits,
            kv_cache=context.kv_cache,
            kv_in_place=self.config.attention.cache is Cache.IN_PLACE,
            single_profile=self.config.network.single_profile,
        )
