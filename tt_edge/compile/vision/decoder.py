"""The language part of a vision-language model, with image features in place of placeholders' embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from tt_edge.compile.vision.deepstack import added_by_index, deepstack_levels, handed, placed_rows, rows_where
from tt_edge.compile.vision.families import PLACES, Blocks, VLMFamily, placed_features
from tt_edge.compile.vision.own_positions import by_positions
from tt_edge.contract import IMAGE_FEATURES, IMAGE_INDICES, deepstack_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ImageDecoder(nn.Module):
    """Computes logits from token ids, positions and image features selected by index, without a cache object.

    Nothing is scattered at run time: every token looks up its row in the feature table, or its embedding.
    """

    def __init__(self, model: PreTrainedModel, family: VLMFamily) -> None:
        super().__init__()
        self.model = model
        self._family = family

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        image_indices: Tensor,
        image_features: Tensor,
        *deepstack_features: Tensor,
    ) -> Tensor:
        """``input_ids`` and ``image_indices`` ``[B, S]``, ``position_ids`` ``[B, S]`` or ``[3, B, S]``, tables ``[N, H]``."""
        if self._family.from_ids(self.model):
            with placed_rows(self._family.decoder_of(self.model), image_indices, image_features):
                whole = self._family.whole_of(self.model)
                out = whole(input_ids=input_ids, position_ids=position_ids, use_cache=False)
            return out.logits  # type: ignore[no-any-return]
        embeddings: Any = self.model.get_input_embeddings()
        if self._outside(embeddings):
            input_ids = input_ids.masked_fill(image_indices >= 0, 0)
        embeds = rows_where(image_indices, image_features, embeddings(input_ids))
        decoder, head = self._family.decoder_of(self.model), self._family.head_of(self.model)
        called = self._family.whole_of(self.model) if self._family.whole else decoder
        placing = placed_features(decoder) if self._family.whole else None
        places = {} if placing is None else {f"{placing}{PLACES}": self._places(image_indices, position_ids)}
        with handed(self.model, decoder, image_indices, deepstack_features):
            out = called(inputs_embeds=embeds, position_ids=position_ids, use_cache=False, **places)
        logits: Tensor = out.logits if self._family.whole else head(out.last_hidden_state)
        return logits

    def _places(self, image_indices: Tensor, position_ids: Tensor) -> Tensor:
        """1 for a token of an image, -1 for one of ``marked``, 0 for one of a text ``[B, S]``."""
        places = (image_indices >= 0).long()
        for place in self._family.marked:
            places = places - (position_ids == place).long()
        return places

    def _outside(self, embeddings: nn.Module) -> bool:
        """Whether the image token has no embedding: some vocabularies end before it."""
        token = getattr(self.model.config, "image_token_id", None)
        weight: Any = embeddings.weight
        return isinstance(token, int) and token >= len(weight)

    def example(self, batch: int, sequence: int, rows: int) -> dict[str, Tensor]:
        """Inputs to trace with; ``rows`` is the number of rows of the feature tables."""
        embeddings = self.model.get_input_embeddings().weight
        positions = torch.arange(sequence).expand(batch, sequence)
        if self._family.position_axes > 1:
            positions = positions.expand(self._family.position_axes, batch, sequence)
        table = torch.zeros(rows, embeddings.shape[1], dtype=embeddings.dtype)
        example = {
            "input_ids": torch.zeros(batch, sequence, dtype=torch.int64),
            "position_ids": positions.contiguous(),
            IMAGE_INDICES: torch.full((batch, sequence), -1, dtype=torch.int32),
            IMAGE_FEATURES: table,
        }
        return example | {deepstack_name(level): table.clone() for level in range(deepstack_levels(self.model))}

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, the features of deeper levels are added by index instead of by boolean mask, a decoder that places
        features looks its positions up, and Gemma 4 makes causal masks: which tokens see each other is an input of the network."""
        decoder, text = self._family.decoder_of(self.model), self.model.config.get_text_config()
        blocks = self._family.blocks is not Blocks.NONE
        with ExitStack() as stack:
            stack.enter_context(added_by_index(decoder))
            if placed_features(decoder) is not None:
                stack.enter_context(by_positions(decoder))
            if blocks and getattr(text, "use_bidirectional_attention", None) == "vision":
                stack.enter_context(patch.object(text, "use_bidirectional_attention", None))
            yield
