"""Videos as Hugging Face's processors take them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tt_edge.errors import MissingDependencyError
from tt_edge.runtime.multimodal.images import pixels_of
from tt_edge.runtime.multimodal.sources import Video, VideoFile
from tt_edge.runtime.multimodal.videos.frames import Frames

#: The video processor whose ``num_frames`` is a limit beside a rate; of others it goes before the rate.
_LIMIT = "SmolVLMVideoProcessor"


def frames_of(video: Video | VideoFile, processor: Any) -> tuple[Any, Any]:
    """Frames ``[frames, H, W, 3]`` and their metadata; transformers itself reads a file, by the rule of ``processor``."""
    if isinstance(video, Video):
        count = len(video.frames)
        metadata = {"fps": video.fps, "total_num_frames": count, "frames_indices": list(range(count))}
        return np.stack([pixels_of(frame) for frame in video.frames]), metadata
    from transformers.video_utils import load_video

    own = copy(processor.video_processor)
    if video.fps and type(own).__name__ != _LIMIT:
        own.num_frames = None  # which would go before the rate that is asked for
    rate = video.fps or (None if video.count or own.num_frames else own.fps or Video.fps)
    choose = partial(own.sample_frames, num_frames=video.count, fps=rate)
    frames, read = load_video(os.fspath(video.file), backend="pyav", sample_indices_fn=choose)
    if len(frames) < len(read.frames_indices):  # it reads a frame once, even where it is taken twice
        frames = frames[np.unique(read.frames_indices, return_inverse=True)[1]]
    return frames, read


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
