"""Which vision-language families there are, and how each prepares images: one record a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import VisionGeometry
from tt_edge.errors import BundleError, UnsupportedModelError
from tt_edge.runtime.multimodal.images.anyres import AnyResProcessor
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import QWEN_VIDEO, type_of
from tt_edge.runtime.multimodal.images.qwen_vl import QwenVLProcessor
from tt_edge.runtime.multimodal.images.rows_and_columns import RowsAndColumnsProcessor
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.images.square import SquareProcessor
from tt_edge.runtime.multimodal.images.tiles import TilingProcessor
from tt_edge.runtime.text.tokenizer import Files, read_json


class ImageProcessor(Protocol):
    """From pixels to what the vision network takes. Families that take videos also have ``process_video``."""

    @property
    def placeholders(self) -> Placeholders:
        """How images stand in a prompt."""

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``, made smaller until they are ``max_tokens`` where the family can.

        Raises ``InvalidInputError`` for a size or for options that the family cannot take.
        """

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``, which gets ``tokens_of`` its size. Raises as that does."""


@dataclass(frozen=True)
class VisionFamily:
    """How a family of vision-language models prepares images, and how they stand in its prompts.

    ``image_processor`` makes the preprocessing from a checkpoint's settings, of one of ``processors``, classes of transformers of
    which the first is meant where the settings name none. ``around`` are the tokens before and after an
    image's tokens (or the names of the settings in ``tokenizer_config.json`` that hold them, with their defaults).
    ``numbered`` and ``leading`` are those of ``Placeholders``. ``prompts_have_start``: prompts have the token before an image's
    tokens in the place of the image, and ``apart`` is put before and after. ``one_block``: all tokens of a prompt see each
    other, and its text begins with the token that begins sequences and ends with a newline.
    """

    image_processor: Callable[[CheckpointSettings], ImageProcessor]
    processors: tuple[str, ...]
    takes_videos: bool = False
    around: tuple[str, str] = ("", "")
    around_settings: tuple[str, str] | None = None
    numbered: bool = False
    leading: bool = False
    prompts_have_start: bool = False
    apart: str = ""
    one_block: bool = False

    def placeholders(self, image: str, video: str | None, tokenizer_config: dict[str, Any]) -> Placeholders:
        """``image`` and ``video`` are the tokens that stand for them in the tokenizer."""
        start, end = self.around
        if self.around_settings is not None:
            extra = tokenizer_config.get("extra_special_tokens")
            named = tokenizer_config | (extra if isinstance(extra, dict) else {})
            start, end = (
                str(named.get(key, default)) for key, default in zip(self.around_settings, self.around, strict=True)
            )
        return Placeholders(
            image,
            video if self.takes_videos else None,
            self.apart + start,
            end + self.apart,
            numbered=self.numbered,
            leading=self.leading,
            written=start if self.prompts_have_start else None,
            before_text=_content(tokenizer_config.get("bos_token")) if self.one_block else None,
        )


def _content(token: Any) -> str:
    """The text of a special token, which settings have as it is or in an object."""
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


_QWEN = ("Qwen2VLImageProcessor",)
_SQUARES = ("LlavaImageProcessor", "CLIPImageProcessor", "BlipImageProcessor", "SiglipImageProcessor")
_SPLITS = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")
_QWEN_VL = VisionFamily(QwenVLProcessor.from_settings, _QWEN, takes_videos=True)
_SQUARE = VisionFamily(SquareProcessor.from_settings, _SQUARES)
_SPLIT = VisionFamily(RowsAndColumnsProcessor.from_settings, _SPLITS)
_IMG_TAGS, _IMG_SETTINGS = ("<img>", "</img>"), ("start_image_token", "end_image_token")

#: By ``model_type``.
VISION_FAMILIES: dict[str, VisionFamily] = {
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": _QWEN_VL,
    # The tokens around are written around each frame of a video; around an image they are in the prompt already.
    "qwen3_vl": VisionFamily(
        QwenVLProcessor.from_settings, _QWEN, takes_videos=True, around=("<|vision_start|>", "<|vision_end|>")
    ),
    "llava": _SQUARE,
    "vipllava": VisionFamily(SquareProcessor.from_settings, ("CLIPImageProcessor", *_SQUARES)),
    "llava_next": VisionFamily(AnyResProcessor.from_settings, ("LlavaNextImageProcessor",)),
    "llava_onevision": VisionFamily(AnyResProcessor.from_settings, ("LlavaOnevisionImageProcessor",)),
    "idefics3": _SPLIT,
    "smolvlm": _SPLIT,
    "gemma3": VisionFamily(
        SquareProcessor.from_settings,
        ("Gemma3ImageProcessor",),
        around=("<start_of_image>", "<end_of_image>"),
        around_settings=("boi_token", "eoi_token"),
        prompts_have_start=True,
        apart="\n\n",
    ),
    "paligemma": VisionFamily(SquareProcessor.from_settings, ("SiglipImageProcessor",), one_block=True),
    "blip-2": VisionFamily(SquareProcessor.from_settings, ("BlipImageProcessor",), leading=True),
    "internvl": VisionFamily(
        TilingProcessor.of_internvl, ("GotOcr2ImageProcessor",), around=_IMG_TAGS, around_settings=_IMG_SETTINGS
    ),
    "eagle2": VisionFamily(
        TilingProcessor.of_eagle2, ("Eagle2",), around=_IMG_TAGS, around_settings=_IMG_SETTINGS, numbered=True
    ),
}


def family_for(model_type: str) -> VisionFamily:
    """The family's record. Raises ``UnsupportedModelError`` for an unknown ``model_type``."""
    if model_type not in VISION_FAMILIES:
        raise UnsupportedModelError(
            f"images for models of type {model_type!r} are not preprocessed here; there are {', '.join(VISION_FAMILIES)}"
        )
    return VISION_FAMILIES[model_type]


def image_processor_for(settings: CheckpointSettings) -> ImageProcessor:
    """The preprocessing of a checkpoint.

    Raises ``UnsupportedModelError`` for an unknown ``model_type``, and for a setting that changes pixels in a way that is not
    followed here; ``BundleError`` for malformed settings.
    """
    family = family_for(settings.model_type)
    image = type_of(settings.image, family.processors).complete(settings.image)
    video = QWEN_VIDEO.complete(settings.video, of_video=True) if family.takes_videos else settings.video
    return family.image_processor(replace(settings, image=image, video=video))


def read_settings(
    files: Files, model: dict[str, Any], geometry: VisionGeometry, tokens: dict[str, str | None]
) -> CheckpointSettings:
    """The preprocessing settings in a bundle's files. ``tokens``: what ``image`` and ``video`` are in the tokenizer.

    Newer checkpoints have ``processor_config.json`` for all of it, older ones a file for each. Raises ``BundleError`` for a
    checkpoint without an image processor, ``UnsupportedModelError`` for an unknown ``model_type``.
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
    if not isinstance(image, dict) or not isinstance(video, dict):
        raise BundleError(
            "processor_config.json has image or video settings that are no object; correct it and compile the model again"
        )
    family = family_for(str(model.get("model_type")))
    placeholders = family.placeholders(tokens["image"], tokens["video"], read_json(files, "tokenizer_config.json"))
    return CheckpointSettings(image, model, geometry, placeholders, video)
