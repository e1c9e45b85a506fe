"""Whether the videos of a checkpoint are followed, decided before anything is compiled."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from tt_edge.errors import BundleError, UnsupportedModelError, one_line
from tt_edge.runtime.multimodal.images.image_prompt import ImagePrompt
from tt_edge.runtime.multimodal.images.processors import ImageProcessor
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.videos.processors import video_processor_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_videos(prompt: ImagePrompt, settings: CheckpointSettings, images: ImageProcessor) -> ImagePrompt:
    """``prompt`` with the class of video processor that ``settings`` name; without videos, saying why, where it is not followed."""
    if prompt.video is None or prompt.placeholders.video is None:
        return without_videos(prompt, "")
    name = str(settings.video.get("video_processor_type") or prompt.video)
    try:
        video_processor_for(replace(settings, video_processor=name), images)
    except (UnsupportedModelError, BundleError) as error:
        return without_videos(prompt, one_line(error).partition(";")[0])
    return replace(prompt, video=name)


def own_template(model: PreTrainedModel) -> str | None:
    """The chat template that the family's processor has for chats with a video, whatever the checkpoint's is; if it has one."""
    try:
        module = import_module(type(model).__module__.replace(".modeling_", ".processing_"))
    except ImportError:
        return None
    return getattr(module, "DEFAULT_CHAT_TEMPLATE", None)


def without_videos(prompt: ImagePrompt, why: str) -> ImagePrompt:
    """``prompt`` of a model that takes no videos."""
    return replace(
        prompt, video=None, no_videos=why, placeholders=replace(prompt.placeholders, video=None, frames=None)
    )
