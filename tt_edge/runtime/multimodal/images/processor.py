"""Choosing the preprocessing of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.qwen_vl import QwenVLProcessor
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.images.square import SquareProcessor
from tt_edge.runtime.multimodal.images.tiles import TilingProcessor
from tt_edge.runtime.text.tokenizer import Files, read_json
from tt_edge.vision_contract import VisionGeometry


class ImageProcessor(Protocol):
    """What a family does to pictures. Those that take videos have ``process_video``."""

    @property
    def placeholders(self) -> Placeholders:
        """How images stand in a prompt."""

    def process(self, image: NDArray[np.uint8]) -> ProcessedImage:
        """Preprocess a picture ``[H, W, 3]``. Raises ``InvalidInputError`` for one that the family cannot take."""


#: By ``model_type``.
PROCESSORS: dict[str, Callable[[CheckpointSettings], ImageProcessor]] = {
    "qwen2_vl": QwenVLProcessor.from_settings,
    "qwen2_5_vl": QwenVLProcessor.from_settings,
    "qwen3_vl": QwenVLProcessor.from_settings,
    "llava": SquareProcessor.from_settings,
    "blip-2": SquareProcessor.from_settings,
    "internvl": TilingProcessor.of_internvl,
    "eagle2": TilingProcessor.of_eagle2,
}


def image_processor_for(settings: CheckpointSettings) -> ImageProcessor:
    """The preprocessing of a checkpoint. Raises ``UnsupportedModelError`` for an unknown ``model_type``."""
    if settings.model_type not in PROCESSORS:
        raise UnsupportedModelError(
            f"images for models of type {settings.model_type!r} are not preprocessed here; there are {', '.join(PROCESSORS)}"
        )
    return PROCESSORS[settings.model_type](settings)


def read_settings(
    files: Files, model: dict[str, Any], geometry: VisionGeometry, tokens: dict[str, str | None]
) -> CheckpointSettings:
    """From a bundle's files. ``tokens``: what ``image`` and ``video`` are in the tokenizer.

    Newer checkpoints have ``processor_config.json`` for all of it, older ones a file for each. Raises ``BundleError`` for a
    checkpoint without an image processor.
    """
    processor = read_json(files, "processor_config.json")
    image = read_json(files, "preprocessor_config.json") or processor.get("image_processor")
    if not image or not tokens["image"]:
        raise BundleError(
            "the bundle has no preprocessor_config.json or no image token, so images cannot be prepared; compile from a "
            "checkpoint that has its image processor's settings"
        )
    # transformers, too, takes the image processor's settings for a checkpoint that has none for videos.
    video = read_json(files, "video_preprocessor_config.json") or processor.get("video_processor") or image
    return CheckpointSettings(image, model, geometry, _placeholders(files, model, tokens), video)


def _placeholders(files: Files, model: dict[str, Any], tokens: dict[str, str | None]) -> Placeholders:
    image, video = tokens["image"], tokens["video"]
    assert image is not None
    match model.get("model_type"):
        case "qwen3_vl":  # around each frame of a video
            return Placeholders(image, video, "<|vision_start|>", "<|vision_end|>")
        case "internvl" | "eagle2" as family:
            named = read_json(files, "tokenizer_config.json")
            extra = named.get("extra_special_tokens")
            named |= extra if isinstance(extra, dict) else {}
            start, end = str(named.get("start_image_token", "<img>")), str(named.get("end_image_token", "</img>"))
            return Placeholders(image, None, start, end, numbered=family == "eagle2")
        case "blip-2":
            return Placeholders(image, leading=True)
        case _:
            return Placeholders(image, video)
