"""Preprocessing by the class of a checkpoint's image processor: one record a class, none a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import VisionGeometry
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.crossed.aspect_ratios import AspectRatioProcessor
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions
from tt_edge.runtime.multimodal.images.patched.budget import BudgetProcessor
from tt_edge.runtime.multimodal.images.patched.flattened import FlattenedProcessor
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor
from tt_edge.runtime.multimodal.images.patched.pixtral import PixtralProcessor
from tt_edge.runtime.multimodal.images.patched.qwen_vl import QwenVLProcessor
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import PROCESSOR_TYPES
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.images.tiled.anyres import AnyResProcessor
from tt_edge.runtime.multimodal.images.tiled.canvas import CanvasProcessor
from tt_edge.runtime.multimodal.images.tiled.padded import PaddedTilesProcessor
from tt_edge.runtime.multimodal.images.tiled.quarters import QuartersProcessor
from tt_edge.runtime.multimodal.images.tiled.rows_and_columns import RowsAndColumnsProcessor
from tt_edge.runtime.multimodal.images.tiled.square import SquareProcessor
from tt_edge.runtime.multimodal.images.tiled.tiles import TilingProcessor
from tt_edge.runtime.multimodal.images.tiled.two_sizes import TwoSizesProcessor
from tt_edge.runtime.text.tokenizer import Files, read_json


class ImageProcessor(Protocol):
    """From pixels to what the vision network takes."""

    @property
    def placeholders(self) -> Placeholders:
        """How images stand in a prompt."""

    @property
    def most_tiles(self) -> int:
        """Tiles of an image, at most; 1 where images have no tiles."""

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``, made smaller until they are ``max_tokens`` where the class can.

        Raises ``InvalidInputError`` for a size or for options that it cannot take.
        """

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``, which gets ``tokens_of`` its size. Raises as that does."""


#: By the class of transformers, as ``PROCESSOR_TYPES``: what makes the preprocessing of a checkpoint's settings.
PROCESSORS: dict[str, Callable[[CheckpointSettings], ImageProcessor]] = {
    "CLIPImageProcessor": SquareProcessor.from_settings,
    "LlavaImageProcessor": SquareProcessor.from_settings,
    "ChameleonImageProcessor": SquareProcessor.from_settings,
    "BlipImageProcessor": SquareProcessor.from_settings,
    "SiglipImageProcessor": SquareProcessor.from_settings,
    "Gemma3ImageProcessor": SquareProcessor.from_settings,
    "LlavaNextImageProcessor": AnyResProcessor.from_settings,
    "LlavaOnevisionImageProcessor": AnyResProcessor.from_settings,
    "Idefics2ImageProcessor": QuartersProcessor.from_settings,
    "Idefics3ImageProcessor": RowsAndColumnsProcessor.from_settings,
    "SmolVLMImageProcessor": RowsAndColumnsProcessor.from_settings,
    "GotOcr2ImageProcessor": TilingProcessor.of_internvl,
    "PPChart2TableImageProcessor": SquareProcessor.from_settings,
    "VideoLlavaImageProcessor": SquareProcessor.at_once,
    "DeepseekVLImageProcessor": SquareProcessor.within_square,
    "DeepseekVLHybridImageProcessor": TwoSizesProcessor.from_settings,
    "JanusImageProcessor": SquareProcessor.within_square,
    "Cohere2VisionImageProcessor": TilingProcessor.of_cohere2,
    "GraniteDoclingImageProcessor": TilingProcessor.of_granite_docling,
    "Ovis2ImageProcessor": TilingProcessor.of_ovis2,
    "PerceptionLMImageProcessor": TilingProcessor.of_perception,
    "Phi4MultimodalImageProcessor": PaddedTilesProcessor.from_settings,
    "Llama4ImageProcessor": CanvasProcessor.from_settings,
    "MllamaImageProcessor": AspectRatioProcessor.from_settings,
    "Eagle2": TilingProcessor.of_eagle2,
    "Vila": TilingProcessor.of_vila,
    "Qwen2VLImageProcessor": QwenVLProcessor.from_settings,
    "Glm4vImageProcessor": GridProcessor.of_glm,
    "Glm46VImageProcessor": GridProcessor.of_glm,
    "GlmgaImageProcessor": GridProcessor.of_glm,
    "Cosmos3EdgeImageProcessor": GridProcessor.of_cosmos_edge,
    "PaddleOCRVLImageProcessor": GridProcessor.of_paddle,
    "HunYuanVLImageProcessor": GridProcessor.of_hunyuan,
    "VideoLlama3ImageProcessor": GridProcessor.from_settings,
    "PixtralImageProcessor": PixtralProcessor.from_settings,
    "MuseGlimmerImageProcessor": BudgetProcessor.of_muse,
    "Gemma4ImageProcessor": BudgetProcessor.of_gemma4,
    "Gemma4UnifiedImageProcessor": BudgetProcessor.of_gemma4,
    "Kosmos2_5ImageProcessor": FlattenedProcessor.from_settings,
}


def image_processor_for(settings: CheckpointSettings) -> ImageProcessor:
    """The preprocessing of a checkpoint.

    Raises ``UnsupportedModelError`` for a class that is not followed, and for a setting that changes pixels in a way that is
    not followed here; ``BundleError`` for malformed settings.
    """
    name = settings.processor
    if name not in PROCESSORS:
        raise UnsupportedModelError(
            f"the image processor is {name!r:.80}, which is not one of the {len(PROCESSORS)} that tt-edge follows; "
            "docs/how_to/vision.md lists them"
        )
    return PROCESSORS[name](replace(settings, image=PROCESSOR_TYPES[name].complete(settings.image)))


def image_settings(files: Files) -> Any:
    """Those of the image processor in a bundle's or a checkpoint's files, as they are; empty where there are none.

    Newer checkpoints have ``processor_config.json`` for all of it, older ones a file for each.
    """
    return read_json(files, "preprocessor_config.json") or read_json(files, "processor_config.json").get(
        "image_processor", {}
    )


def read_settings(
    files: Files, model: dict[str, Any], geometry: VisionGeometry, prompt: ImagePrompt
) -> CheckpointSettings:
    """The preprocessing settings in a bundle's files: those of ``prompt`` before the checkpoint's own.

    Raises ``BundleError`` for settings that are no object.
    """
    image = image_settings(files)
    # transformers, too, takes the image processor's settings for a checkpoint that has none for videos.
    video = (
        read_json(files, "video_preprocessor_config.json")
        or read_json(files, "processor_config.json").get("video_processor")
        or image
    )
    if not isinstance(image, dict) or not isinstance(video, dict):
        raise BundleError(
            "processor_config.json has image or video settings that are no object; correct it and compile the model again"
        )
    return CheckpointSettings(
        {**image, **prompt.settings},
        model,
        geometry,
        prompt.placeholders,
        {**video, **prompt.video_settings},
        prompt.processor,
        prompt.video,
    )
