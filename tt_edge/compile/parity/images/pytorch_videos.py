"""Videos as Hugging Face's processors take them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge.errors import InvalidInputError, MissingDependencyError
from tt_edge.runtime.multimodal.images import pixels_of
from tt_edge.runtime.multimodal.sources import Video, VideoFile
from tt_edge.runtime.multimodal.videos.frames import Frames

#: The video processors whose ``num_frames`` is a limit beside a rate; of others it goes before the rate.
_LIMITS = ("SmolVLMVideoProcessor", "MuseGlimmerVideoProcessor")
#: Processors that read metadata which they do not ask their video processor for.
_UNASKED = ("MuseGlimmerProcessor", "Cosmos3EdgeProcessor")


def frames_of(video: Video | VideoFile, processor: Any) -> tuple[Any, Any]:
    """Frames ``[frames, H, W, 3]`` and their metadata; transformers itself reads a file, by the rule of ``processor``."""
    if isinstance(video, Video):
        count = len(video.frames)
        metadata = {"fps": video.fps, "total_num_frames": count, "frames_indices": list(range(count))}
        return np.stack([pixels_of(frame) for frame in video.frames]), metadata
    from transformers.video_utils import load_video

    own = copy(processor.video_processor)
    if video.fps and type(own).__name__ not in _LIMITS:
        own.num_frames = None  # which would go before the rate that is asked for
    rate = video.fps or (None if video.count or own.num_frames else own.fps or Video.fps)
    choose = partial(own.sample_frames, num_frames=video.count, fps=rate)
    if "temporal_patch_size" in inspect.signature(own.sample_frames).parameters:
        choose = partial(choose, temporal_patch_size=own.temporal_patch_size)
    frames, read = load_video(os.fspath(video.file), backend="pyav", sample_indices_fn=choose)
    if len(frames) < len(read.frames_indices):  # it reads a frame once, even where it is taken twice
        frames = frames[np.unique(read.frames_indices, return_inverse=True)[1]]
    return frames, read


def videos_given(processor: Any, videos: Sequence[tuple[Any, Any]], rates: Sequence[float | None]) -> dict[str, Any]:
    """What ``processor`` is called with for frames ``[frames, 3, H, W]``, already chosen, and their metadata.

    ``rates`` are frames a second, ``None`` where nobody said. Qwen2.5-Omni's reads them of no metadata: it is told, one for all.
    Raises ``InvalidInputError`` for videos of several rates there.
    """
    given: dict[str, Any] = {"videos": [frames for frames, _ in videos], "do_sample_frames": False}
    given |= {"video_metadata": [metadata for _, metadata in videos]}
    if _told_of_metadata(processor):
        given["return_metadata"] = True
    if not hasattr(processor, "position_id_per_seconds"):
        return given
    if len(told := set(rates)) > 1:
        raise InvalidInputError(f"the checkpoint's processor takes videos of one rate, and these have {rates}")
    return given if told == {None} else {**given, "fps": told.pop()}


def _told_of_metadata(processor: Any) -> bool:
    """Whether it writes times of frames, which it reads of metadata that its video processor returns only if asked to.

    (Muse Glimmer's and Cosmos 3 Edge's processors do not ask, as Qwen3-VL's does, and fail without.)
    """
    return type(processor).__name__ in _UNASKED


def qwen_vl_utils() -> Any:
    """The package. Raises ``MissingDependencyError`` without it."""
    try:
        import qwen_vl_utils as utils
    except ImportError as error:
        raise MissingDependencyError(
            "sizes of images, and videos, are prepared with qwen-vl-utils; pip install 'tt-edge[vlm-host]'"
        ) from error
    return utils


def prepare_frames(frames: Sequence[str | Path], fps: float, patch_size: int) -> Video:
    """A video from image files, resized as ``qwen-vl-utils`` does, as is usual for the Qwen-VL models.

    Raises ``InvalidInputError`` for frames that cannot be read or differ in size, and for an impossible frame rate.
    """
    from PIL import Image

    given = Video(frames, fps)
    checked = Frames([pixels_of(frame) for frame in given.frames], given.fps)
    pictures = [Image.fromarray(frame) for frame in checked.pixels]
    messages = [{"role": "user", "content": [{"type": "video", "video": pictures, "sample_fps": given.fps}]}]
    _, (video,), _ = qwen_vl_utils().process_vision_info(
        messages, return_video_kwargs=True, image_patch_size=patch_size
    )
    arrays = video.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    return replace(given, frames=tuple(arrays))
