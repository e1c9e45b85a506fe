"""A model that replaces the embeddings of image tokens by features, as most do."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class PlacingModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Replaces the embeddings of ``image_token_id``, and of a ``video_token_id``, by features of ``pixel_values`` ``[tiles, 3, H,
    W]``; ``generate()`` is transformers'. ``language_model`` has the decoder and the head."""

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_attention_backend = True
    language_model: Any

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.language_model.get_output_embeddings()
        return head

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """``pooler_output`` ``[tiles, tokens, hidden]``."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Like the language model's ``forward``, with the features of ``pixel_values``."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            assert input_ids is not None
            assert inputs_embeds is not None
            features = self.get_image_features(pixel_values).pooler_output
            placed = input_ids == self.config.image_token_id
            if (video := getattr(self.config, "video_token_id", None)) is not None:
                placed = placed | (input_ids == video)
            here = placed.unsqueeze(-1).expand_as(inputs_embeds)
            inputs_embeds = inputs_embeds.masked_scatter(here, features.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def prepare_inputs_for_generation(self, *args: Any, pixel_values: Tensor | None = None, **kwargs: Any) -> Any:
        """Pass images only in the first step: afterwards their tokens are in the cache."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        if kwargs.get("is_first_iteration", True):
            inputs["pixel_values"] = pixel_values
        return inputs
