"""Calibration samples with images, preprocessed as the runtime will preprocess them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from tt_edge.compile.parity.images.pytorch_vlm import cast, model_inputs
from tt_edge.compile.quantize.data import Batch, Sample
from tt_edge.compile.vision.families import VLMFamily, family_of
from tt_edge.compile.vision.processing.drawing import drawn
from tt_edge.compile.vision.tower import tower_of
from tt_edge.errors import InvalidInputError, TTEdgeError
from tt_edge.runtime.multimodal.images import ProcessedImage
from tt_edge.runtime.multimodal.processor import MultimodalProcessor
from tt_edge.runtime.multimodal.sources import ImageSource
from tt_edge.runtime.text.chat_template import ChatTemplate
from tt_edge.runtime.text.tokenizer import BundleTokenizer, Files

#: Heights and widths of synthetic images; the second set for models that cut images into tiles, where each fits one tile.
_SIZES = ((168, 224), (150, 210), (196, 140), (112, 280))
_TILE_SIZES = ((196, 196),)


class CalibrationPictures:
    """Builds the inputs of ``model`` for samples with images, with the processor settings in ``files`` (the future bundle's)."""

    def __init__(self, model: PreTrainedModel, family: VLMFamily, files: Files) -> None:
        self._model = model
        self._tokenizer = BundleTokenizer.from_bundle(files)
        self._template = ChatTemplate.from_bundle(files, self._tokenizer.special_tokens)
        _, geometry = tower_of(model, family)
        self._sizes = _SIZES if geometry.tile_size is None else _TILE_SIZES
        self._processor = MultimodalProcessor.from_files(files, geometry)

    @classmethod
    def of(cls, model: PreTrainedModel, files: Files) -> CalibrationPictures | None:
        """``None`` for a language model."""
        family = family_of(model)
        return None if family is None else cls(model, family, files)

    def tokenize(self, sample: Sample) -> list[int]:
        """Token ids of a sample. Raises ``InvalidInputError`` for images that cannot be read."""
        return self._read(sample)[0]

    def batch(self, ids: Sequence[list[int]], samples: Sequence[Sample]) -> Batch:
        """The model's inputs, with floats in the model's type."""
        images = [image for sample in samples for image in self._read(sample)[1]]
        return cast(model_inputs(self._model, ids, images), self._model.dtype)

    def drawn(self, number: int) -> np.ndarray:
        """The synthetic image ``number``, uint8 ``[H, W, 3]``."""
        return drawn(*self._sizes[number % len(self._sizes)], number)

    def illustrated(self, text: str, image: ImageSource) -> Sample:
        """``image`` followed by ``text``; as a user message if there is a chat template."""
        placeholders = self._processor.placeholders
        if self._template is not None:
            parts = [{"type": "image"}, {"type": "text", "text": text}]
            prompt = self._template.render([{"role": "user", "content": parts}])
        else:
            prompt = text if placeholders.leading else f"{placeholders.in_prompt} {text}"
        is_chat = self._template is not None
        return Sample(prompt, (image,), image if isinstance(image, str) else "a built-in image", is_chat)

    def _read(self, sample: Sample) -> tuple[list[int], list[ProcessedImage]]:
        try:
            ids, images = self._processor.tokenize(
                self._tokenizer, sample.text, sample.images, add_special_tokens=not sample.is_chat
            )
        except TTEdgeError as error:
            raise InvalidInputError(f"{sample.where}: {error}") from error
        return ids, images
