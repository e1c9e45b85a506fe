"""Choosing the preprocessing of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.runtime.images.processed import ProcessedImage
from tt_edge.runtime.images.qwen_vl import QwenVLProcessor

Settings = Mapping[str, Any]


class ImageProcessor(Protocol):
    """What a family does to pictures, and to the text that they stand in."""

    @property
    def placeholder(self) -> str:
        """The token, in words, that stands for an image in a prompt."""

    def process(self, image: NDArray[np.uint8]) -> ProcessedImage:
        """Preprocess a picture ``[H, W, 3]``. Raises ``InvalidInputError`` for one that the family cannot take."""


#: By ``model_type``: made from ``preprocessor_config.json`` and the model's configuration.
PROCESSORS: dict[str, Callable[[Settings, Settings], ImageProcessor]] = {
    "qwen2_vl": QwenVLProcessor.from_settings,
    "qwen2_5_vl": QwenVLProcessor.from_settings,
    "qwen3_vl": QwenVLProcessor.from_settings,
}


def image_processor_for(preprocessor_config: Settings, model_config: Settings) -> ImageProcessor:
    """The preprocessing of a checkpoint, from its settings. Raises ``UnsupportedModelError`` for an unknown ``model_type``."""
    model_type = str(model_config.get("model_type"))
    if model_type not in PROCESSORS:
        raise UnsupportedModelError(
            f"images for models of type {model_type!r} are not preprocessed here; there are {', '.join(PROCESSORS)}"
        )
    return PROCESSORS[model_type](preprocessor_config, model_config)


def expand(text: str, placeholder: str, images: Sequence[ProcessedImage]) -> str:
    """``text`` with every placeholder repeated as often as its image has tokens, as the Hugging Face processors do.

    Raises ``InvalidInputError`` unless there are as many placeholders as images.
    """
    pieces = text.split(placeholder)
    if len(pieces) - 1 != len(images):
        raise InvalidInputError(
            f"the prompt has {len(pieces) - 1} placeholders {placeholder} for {len(images)} images; give one for each, or a "
            "chat, whose template places them"
        )
    parts = [pieces[0]]
    for image, piece in zip(images, pieces[1:], strict=True):
        parts += [placeholder * image.tokens, piece]
    return "".join(parts)
