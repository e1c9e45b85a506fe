"""An encoder-decoder model as two modules to trace: source to keys and values, and tokens to logits.

No layer is copied: both modules call the model itself, with a cache that hands out what attention to the source computes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderModel, VisionEncoderDecoderModel
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from tt_edge.compile.export.by_shapes import by_shapes
from tt_edge.compile.export.latest_cache import LatestLayer
from tt_edge.compile.export.masks import Visibility
from tt_edge.compile.seq2seq.image_text import SourceImage, text_model
from tt_edge.compile.seq2seq.positions import Positions
from tt_edge.compile.seq2seq.speech import feature_width, subsampling_of
from tt_edge.contract import (
    INPUT_FEATURES,
    PAGE_PIXELS,
    SOURCE_IDS,
    SPEECH_FEATURES,
    SPEECH_SAMPLES,
    Subsampling,
    cross_names,
)
from tt_edge.errors import UnsupportedModelError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Our name of an encoder's main input, by transformers'.
_INPUTS = {
    "input_ids": SOURCE_IDS,
    "input_features": INPUT_FEATURES,
    "pixel_values": PAGE_PIXELS,
    "input_values": SPEECH_SAMPLES,
}

#: Encoders that do not ask transformers for their mask.
_MASK_MAKERS = ("SwitchTransformersStack",)
#: Encoders whose pooled output is what the decoder attends to, place by place.
_POOLED = ("PPFormulaNetVisionModel",)


def _caches(cross: Sequence[tuple[Tensor, Tensor]] = ()) -> EncoderDecoderCache:
    """Empty caches, or one whose attention to the source already has the keys and values ``cross``, layer by layer."""
    made = Cache(layer_class_to_replicate=LatestLayer)
    for layer, (keys, values) in enumerate(cross):
        made.update(keys, values, layer)
    caches = EncoderDecoderCache(Cache(layer_class_to_replicate=LatestLayer), made)
    caches.is_updated = dict.fromkeys(range(len(cross)), True)
    return caches


@dataclass
class _Encoded(BaseModelOutput):  # type: ignore[misc]
    """An encoder's result, also for models whose encoders have experts, or return a mask."""

    router_logits: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None
    pooler_output: Tensor | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, hidden: Tensor) -> _Encoded:
        """What ``encode`` gives, as ``model`` takes it."""
        return cls(last_hidden_state=hidden, pooler_output=hidden if _is_pooled(model) else None)


@dataclass(frozen=True)
class Seq2Seq:
    """The structure of an encoder-decoder ``model``, found by running it once on a short source.

    ``source`` is our name of the encoder's input, ``fixed_size`` that input's size without the batch (Whisper's speech, and pages;
    ``None`` for other sources). Speech of any length becomes as many places as ``subsampling`` says, from samples or from features
    of ``width`` numbers. ``layers`` is the number of decoder layers; ``cross_shape`` is ``(heads, places, head_dim)`` of the keys
    of one source, whose places are only those of a fixed size. With an ``image``, it stands before the text, and ``model`` is the
    encoder-decoder of texts within the model.
    """

    model: PreTrainedModel
    source: str
    fixed_size: tuple[int, ...] | None
    layers: int
    cross_shape: tuple[int, int, int]
    subsampling: Subsampling | None = None
    width: int | None = None
    image: SourceImage | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, image_size: tuple[int, int] | None = None) -> Seq2Seq:
        """``image_size`` is that of the images that the checkpoint's processor makes, if it has one.

        Raises ``UnsupportedModelError`` for an encoder that takes something else.
        """
        name, image = type(model).__name__, SourceImage.of(model, image_size)
        model = text_model(model)
        encoder = model.get_encoder()
        takes = main_input(model)
        source = _INPUTS.get(takes)
        if source is None:
            raise UnsupportedModelError(
                f"the encoder of {name} takes {takes}, and tt-edge compiles those that take {', '.join(_INPUTS)}"
            )
        if "bbox" in inspect.signature(encoder.forward).parameters:
            raise UnsupportedModelError(
                f"the encoder of {name} takes boxes beside its tokens (bbox, where each word stands on a page), which no backend "
                "has"
            )
        fixed = subsampling = width = None
        if source == INPUT_FEATURES and not _is_whispers(encoder.config):
            source, width = SPEECH_FEATURES, feature_width(encoder.config, name)
        if source in (SPEECH_FEATURES, SPEECH_SAMPLES):
            subsampling = subsampling_of(partial(encode, model), width, model.dtype, name)
        elif source != SOURCE_IDS:
            fixed = _fixed_size(name, encoder.config, source)
        found = cls(model, source, fixed, 0, (0, 0, 0), subsampling, width, image)
        try:
            keys = by_shapes(model, lambda model: cross_states(model, found.example_source(1, 2)))[::2]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UnsupportedModelError(
                f"{name} does not answer with one token after another from {takes} alone ({one_line(error)}), which no backend has"
            ) from error
        _, heads, places, size = keys[0].shape
        return replace(found, layers=len(keys), cross_shape=(int(heads), int(places), int(size)))

    @property
    def takes_text(self) -> bool:
        return self.source == SOURCE_IDS

    @property
    def speech_size(self) -> tuple[int | None, ...] | None:
        """The size of a source of speech, ``None`` in it for any length; ``None`` for another source."""
        if self.source == SPEECH_FEATURES:
            return None, self.width
        return (None,) if self.source == SPEECH_SAMPLES else self.fixed_size if self.source == INPUT_FEATURES else None

    @property
    def cross_names(self) -> list[str]:
        return cross_names(self.layers)

    def example_source(self, batch: int, length: int) -> Tensor:
        """A source to trace with; ``length`` is the number of places of a text, or of speech of any length."""
        if self.subsampling is not None:
            size = (self.subsampling.fewest(length), *([self.width] if self.width else []))
            return torch.zeros(batch, *size, dtype=self.model.dtype)
        if self.fixed_size is None:
            return torch.zeros(batch, length, dtype=torch.int64)
        return torch.zeros(batch, *self.fixed_size, dtype=self.model.dtype)


def main_input(model: PreTrainedModel) -> str:
    """transformers' name of what the encoder takes."""
    return str(getattr(model.get_encoder(), "main_input_name", "input_ids"))


def _is_whispers(config: Any) -> bool:
    """Whether features are Whisper's: mel bins by a fixed number of frames."""
    return hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions")


def _fixed_size(name: str, config: Any, source: str) -> tuple[int, ...]:
    if source == INPUT_FEATURES:
        return int(config.num_mel_bins), 2 * int(config.max_source_positions)  # one of its convolutions has stride 2
    if not hasattr(config, "image_size"):
        raise UnsupportedModelError(
            f"the encoder of {name} takes images of any size, and tt-edge compiles those of one size"
        )
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(getattr(config, "num_channels", 3)), int(height), int(width)


def encode(model: PreTrainedModel, source: Tensor, **inputs: Any) -> Tensor:
    """The encoder's hidden states ``[B, T, H]`` of a source."""
    encoder = model.get_encoder()
    if "inputs_embeds" in inputs:
        embedded: Tensor = encoder(**inputs).last_hidden_state
        return embedded
    if isinstance(model, EncoderDecoderModel) and "token_type_ids" in inspect.signature(encoder.forward).parameters:
        inputs["token_type_ids"] = torch.zeros_like(source)  # BERT would look them up by position
    out = encoder(**{main_input(model): source}, **inputs)
    hidden: Tensor = out.pooler_output if _is_pooled(model) else out.last_hidden_state
    return hidden


def _is_pooled(model: PreTrainedModel) -> bool:
    """Whether the decoder attends to what the encoder calls its pooled output."""
    return type(model.get_encoder()).__name__ in _POOLED


def cross_states(model: PreTrainedModel, source: Tensor, **inputs: Any) -> tuple[Tensor, ...]:
    """Keys and values of attention to the source, ``[B, H, T, D]``: K, V, layer by layer. ``inputs`` are the encoder's others.

    The decoder is run on one token, and all that is kept is what its layers take from the encoder.
    """
    caches = _caches()
    hidden = encode(model, source, **inputs)
    token = torch.zeros(source.shape[0], 1, dtype=torch.int64)
    model(
        decoder_input_ids=token,
        encoder_outputs=_Encoded.of(model, hidden),
        past_key_values=caches,
        use_cache=True,
    )
    found: list[Tensor] = []
    for layer in caches.cross_attention_cache.layers:
        found += (layer.keys, layer.values)
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not keep the keys and values of attention to its source in transformers' cache, where "
            "tt-edge finds them"
        )
    return tuple(found)


class _NoPadding:
    """Stands for a padding mask of ones in a model that makes its mask of it: ``(1.0 - mask) * lowest`` hides nothing."""

    def __getitem__(self, _index: Any) -> _NoPadding:
        return self

    def to(self, *_: Any, **__: Any) -> _NoPadding:
        return self

    def __rsub__(self, _one: float) -> _NoPadding:
        return self

    def __mul__(self, _lowest: float) -> Visibility:
        return Visibility(causal=False)


class SourceEncoder(nn.Module):
    """From a source to keys and values for every layer of the decoder."""

    def __init__(self, parts: Seq2Seq, positions: Positions) -> None:
        super().__init__()
        self.model, self.positions, self.image = parts.model, positions, parts.image
        self.owner = (
            None if parts.image is None else parts.image.owner
        )  # a submodule: its weights are constants of the graph

    def forward(
        self, source: Tensor, pixels: Tensor | None = None, question: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Token ids ``[B, T]``, mel features ``[B, mels, frames]`` or pixels ``[B, 3, H, W]`` to K, V, layer by layer; for an image
        and a text, token ids and pixels, and the text in other tokens ``[B, Q]`` where features of the image depend on it."""
        if self.image is not None and pixels is not None:
            with self.positions.of_encoder():
                return cross_states(self.model, source, inputs_embeds=self.image.embeddings(source, pixels, question))
        makes_mask = type(self.model.get_encoder()).__name__ in _MASK_MAKERS
        with self.positions.of_encoder():
            return cross_states(self.model, source, **({"attention_mask": _NoPadding()} if makes_mask else {}))


class SourceDecoder(nn.Module):
    """From tokens, their positions, and the keys and values of a source to logits."""

    def __init__(self, parts: Seq2Seq, positions: Positions) -> None:
        super().__init__()
        self.model, self.positions = parts.model, positions
        parameters = inspect.signature(self.model.forward).parameters
        # Composed models pass what begins with decoder_ to their decoder.
        composed = isinstance(self.model, EncoderDecoderModel | VisionEncoderDecoderModel)
        takes = inspect.signature(self.model.decoder.forward).parameters if composed else {}
        self.gives_positions = "decoder_position_ids" in parameters or "position_ids" in takes
        hidden = by_shapes(self.model, lambda model: encode(model, parts.example_source(1, 2)))
        #: Says only that there is a source: its keys and values are in the cache.
        self.presence: Tensor
        self.register_buffer("presence", torch.zeros(1, 1, hidden.shape[2], dtype=hidden.dtype), persistent=False)

    def forward(self, input_ids: Tensor, position_ids: Tensor, *cross: Tensor) -> Tensor:
        """``input_ids`` and ``position_ids`` ``[B, S]``, ``cross`` ``[B, H, T, D]``: K, V, layer by layer."""
        caches = _caches(list(zip(cross[::2], cross[1::2], strict=True)))
        given = {"decoder_position_ids": position_ids} if self.gives_positions else {}
        if isinstance(self.model, EncoderDecoderModel):
            given["decoder_token_type_ids"] = torch.zeros_like(input_ids)
        with self.positions.of_decoder(position_ids):
            out = self.model(
                **given,
                decoder_input_ids=input_ids,
                encoder_outputs=_Encoded.of(self.model, self.presence),
                past_key_values=caches,
                use_cache=True,
            )
        logits: Tensor = out.logits
        return logits
