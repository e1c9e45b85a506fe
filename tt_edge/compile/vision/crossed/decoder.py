"""The language part of Llama 3.2 Vision, with the keys and values of images as inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers.cache_utils import Cache

from tt_edge.compile.export.decoder import DecoderCompiler
from tt_edge.compile.export.latest_cache import LatestLayer
from tt_edge.compile.export.semantics import SeenKeys, constant_rope, semantic_attention, semantic_rotary
from tt_edge.compile.export.trace import trace
from tt_edge.compile.vision.crossed.tower import cross_layers
from tt_edge.config import CompileConfig
from tt_edge.contract import TILES_FROM, TILES_UNTIL, VisionGeometry, image_cache_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Sizes of the traced example: distinct from each other and from 1.
_BATCH, _SEQUENCE = 2, 7


class CrossedDecoder(nn.Module):
    """Computes logits from tokens, which tiles each of them sees, and keys and values of up to ``places`` rows of tiles.

    A token sees the tiles from ``tiles_from`` up to ``tiles_until``. If ``tiles_from`` is -1 it stands before every image: as in
    transformers it attends to all rows, and the MLP behind is left out. Without any (``tiles_until`` 0), layers with
    cross-attention change nothing.
    """

    def __init__(self, model: PreTrainedModel, geometry: VisionGeometry, places: int) -> None:
        super().__init__()
        self.model = model
        self.layers = cross_layers(model)
        self.places = places
        #: The tile that each row is of.
        self.tile_of: Tensor
        rows = geometry.tokens_a_unit // geometry.tiles
        self.register_buffer("tile_of", torch.arange(places, dtype=torch.int32) // rows, persistent=False)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, tiles_from: Tensor, tiles_until: Tensor, *images: Tensor
    ) -> Tensor:
        """All but ``images`` ``[B, S]``; those are K and V, layer by layer, ``[B, heads, places, D]``."""
        inner: Any = self.model.model
        there = tiles_until > 0
        last = tiles_until.clamp(min=1)  # attention to nothing is not defined
        seen = torch.logical_and(self.tile_of >= tiles_from[:, :, None], self.tile_of < last[:, :, None])
        within = torch.logical_and(there, tiles_from >= 0).to(images[0].dtype)
        kept = Cache(layer_class_to_replicate=LatestLayer)
        for index, key, value in zip(self.layers, images[::2], images[1::2], strict=True):
            kept.update(key, value, index)
        hidden = inner.language_model(
            input_ids=input_ids,
            position_ids=position_ids,
            cross_attention_mask=SeenKeys(seen[:, None], there),
            full_text_row_masked_out_mask=within[:, None, :, None],
            past_key_values=kept,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self.model.lm_head(hidden)  # type: ignore[operator]
        return logits

    def example(self, batch: int, sequence: int) -> dict[str, Tensor]:
        """Inputs to trace with, by name."""
        text: Any = self.model.config.get_text_config()
        dtype = self.model.get_input_embeddings().weight.dtype  # the head may be quantized
        heads, size = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
        positions = torch.arange(sequence).expand(batch, sequence)
        none = torch.zeros(batch, sequence, dtype=torch.int32)
        tokens = {
            "input_ids": torch.zeros(batch, sequence, dtype=torch.int64),
            "position_ids": positions.contiguous(),
            TILES_FROM: none,
            TILES_UNTIL: none.clone(),
        }
        names = image_cache_names(len(self.layers))
        return tokens | {name: torch.zeros(batch, heads, self.places, size, dtype=dtype) for name in names}


class CrossedDecoderCompiler(DecoderCompiler):
    """The decoder; ``geometry`` is that of its tower."""

    def __init__(
        self, model: PreTrainedModel, config: CompileConfig, network_name: str, geometry: VisionGeometry
    ) -> None:
        super().__init__(model, config, network_name)
        self.geometry = geometry
        self.decoder_layers -= len(cross_layers(model))

    def export(self) -> GraphModule:
        model, limits = self.model, self.config.limits
        module = CrossedDecoder(model, self.geometry, limits.max_image_tokens or 0)
        example = module.example(_BATCH, _SEQUENCE)
        batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
        tokens = {0: batch, 1: sequence}
        images = tuple({0: batch} for _ in range(len(example) - 4))
        with constant_rope(model, limits.max_seq_len), semantic_attention(model), semantic_rotary(model):
            exported = trace(
                module, tuple(example.values()), {}, (tokens, tokens, tokens, tokens, images), type(model).__name__
            )
        inputs = exported.graph.find_nodes(op="placeholder")
        for node, name in zip(inputs, example, strict=True):
            node.target = node.name = name
        return exported
