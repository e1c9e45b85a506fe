"""Encoder-decoders whose source is an image and a text: Florence-2, BLIP-2 and InstructBLIP with T5.

The image becomes a fixed number of features, which take the places of the image tokens before the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor

from tt_edge.compile.checkpoint.tokenizer_files import saved_tokenizer
from tt_edge.compile.export.semantics import semantic_attention
from tt_edge.compile.vision.families import Instruction, is_encoder_decoder
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.seq2seq.image_text import QUESTION_TOKENIZER
from tt_edge.runtime.text.tokenizer import Files, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.files import HostFiles


#: Classes with an image before the text. T5Gemma 2's images are anywhere in it; only its text part is compiled.
_CLASSES = (
    "Florence2ForConditionalGeneration",
    "Blip2ForConditionalGeneration",
    "InstructBlipForConditionalGeneration",
)
#: Tokens of the traced example's text for the image: a number that no model has as a size.
_QUESTION = 13
#: Towers whose attention is among channels, or in windows of an image that differ in size: it is traced as arithmetic.
_ARITHMETIC = ("Florence2VisionBackbone",)


@dataclass(frozen=True)
class SourceImage:
    """The image of a source: ``size`` is ``(channels, height, width)``, which become ``tokens`` features. ``owner`` is the model
    that makes them, of pixels or, with an ``instruction``, of pixels and the text in tokens of another tokenizer."""

    owner: PreTrainedModel
    size: tuple[int, int, int]
    tokens: int
    instruction: Instruction | None = None

    @classmethod
    def of(cls, owner: PreTrainedModel, size: tuple[int, int] | None) -> SourceImage | None:
        """``size`` is ``(height, width)`` of the images that the checkpoint's processor makes.

        ``None`` for a model without an image before its text. Raises ``UnsupportedModelError`` where the size is unknown.
        """
        if type(owner).__name__ not in _CLASSES:
            return None
        own = getattr(owner.config.vision_config, "image_size", None)
        height, width = size or ((own, own) if isinstance(own, int) else (0, 0))
        if not height or not width:
            raise UnsupportedModelError(
                f"{type(owner).__name__} takes images of any size, and the checkpoint has no preprocessor_config.json with a size; "
                "add it and compile again"
            )
        found = cls(owner, (3, height, width), 0, Instruction.of(owner))
        with torch.no_grad():
            features = found.features(*found.example())
        return replace(found, tokens=int(features.shape[1]))

    def example(self) -> tuple[Tensor, ...]:
        """What ``features`` takes, to trace with."""
        pixels = torch.zeros(1, *self.size, dtype=self.owner.dtype)
        return (pixels,) if self.instruction is None else (pixels, torch.zeros(1, _QUESTION, dtype=torch.int64))

    def features(self, pixels: Tensor, question: Tensor | None = None) -> Tensor:
        """``[B, tokens, H]`` of pixels ``[B, 3, height, width]``, and of a text ``[B, Q]`` where there is an instruction."""
        given = {} if self.instruction is None else {self.instruction.name: question}
        found: Tensor = self.owner.get_image_features(pixels, **given).pooler_output
        return found

    def embeddings(self, source: Tensor, pixels: Tensor, question: Tensor | None = None) -> Tensor:
        """``[B, T, H]`` of token ids ``[B, T]``, of which the first ``tokens`` stand for the image."""
        texts: Tensor = self.owner.get_input_embeddings()(source)
        features = self.features(pixels, question).to(texts.dtype)
        places = torch.arange(source.shape[1])
        rows = features.index_select(1, places.clamp(max=self.tokens - 1))
        return torch.where((places < self.tokens).unsqueeze(-1), rows, texts)

    def add_tokenizer(self, source: str, files: HostFiles) -> None:
        """Put the tokenizer of the ``instruction`` into ``files``, where there is one.

        Raises ``UnsupportedModelError`` for a checkpoint ``source`` without it.
        """
        if self.instruction is None:
            return
        from tt_edge.compile.parity.images.pytorch_vlm import processor_of

        tokenizer = getattr(processor_of(source), self.instruction.tokenizer, None)
        if not getattr(tokenizer, "is_fast", False):
            raise UnsupportedModelError(
                f"{type(self.owner).__name__} reads {self.instruction.name} with its image, and the checkpoint's processor has no "
                f"{self.instruction.tokenizer} with a tokenizer.json that makes them; add it and compile again"
            )
        files.update(saved_tokenizer(tokenizer, f"{QUESTION_TOKENIZER}/"))

    @contextmanager
    def traceable(self) -> Iterator[None]:
        """Within the block, the modules that make features emit ``tt_edge::attention`` where a backend has it."""
        with ExitStack() as stack:
            stack.enter_context(semantic_attention(self.owner))
            for module in self.owner.modules():
                if type(module).__name__ in _ARITHMETIC:
                    config: Any = module.config
                    stack.enter_context(patch.object(config, "_attn_implementation_internal", "eager"))
            yield


def text_model(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder-decoder of texts within ``model``: itself, or T5 within BLIP-2. Another model is returned as it is."""
    inner = getattr(model, "language_model", None)
    has_own = type(model).__name__ in _CLASSES and is_encoder_decoder(model.config)
    return inner if has_own and hasattr(inner, "lm_head") else model


def decoder_of(model: PreTrainedModel) -> Any:
    """The decoder; Florence-2 calls all of BART so."""
    decoder = model.get_decoder()
    inner = getattr(decoder, "decoder", None)
    return decoder if inner is None or not hasattr(decoder, "encoder") else inner


def image_size_of(files: Files) -> tuple[int, int] | None:
    """``(height, width)`` of images that the checkpoint's processor makes; ``None`` if it has none, or of many sizes."""
    settings = read_json(files, "preprocessor_config.json") or read_json(files, "processor_config.json")
    settings = settings.get("image_processor", settings)
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(size, dict) and all(isinstance(size.get(side), int) for side in ("height", "width")):
        return size["height"], size["width"]
    return None
