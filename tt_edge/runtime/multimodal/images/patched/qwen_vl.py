"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of nearly their own size, and videos, in patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.options import ImageOptions
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor, PixelBounds, Size
from tt_edge.runtime.multimodal.images.patched.sampling import FrameSampling
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import normalize, resize
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, mean_and_std, resampling

#: Image tokens of an image for which no bounds are given (qwen-vl-utils, ``IMAGE_MIN_TOKEN_NUM``, ``IMAGE_MAX_TOKEN_NUM``).
_UTILS_LEAST_TOKENS, _UTILS_MOST_TOKENS = 4, 16384

_VIDEO_BOUNDS = PixelBounds(128 * 28 * 28, 768 * 28 * 28)


def check_frames(frames: Sequence[NDArray[np.uint8]]) -> None:
    """Raises ``InvalidInputError`` for no frames ``[H, W, 3]``, or frames of several sizes."""
    if not frames:
        raise InvalidInputError("a video of 0 frames is none; give its frames")
    if len(sizes := {frame.shape for frame in frames}) > 1:
        raise InvalidInputError(f"a video has frames of sizes {sorted(s[:2] for s in sizes)}; give frames of one size")


@dataclass(frozen=True)
class QwenVLProcessor(GridProcessor):
    """As ``Qwen2VLImageProcessor`` and the video processors: sides to multiples of a token's, pixels between two bounds.

    An image is two equal frames. ``tokens_per_second``, of Qwen2.5-VL, is how many positions a second of video takes;
    ``timed``, of Qwen3-VL, has the time in the prompt before each frame.
    """

    video_bounds: PixelBounds = _VIDEO_BOUNDS
    video_mean: tuple[float, ...] = MEAN
    video_std: tuple[float, ...] = STD
    video_resample: int = 3
    video_resizes: bool = True
    tokens_per_second: float | None = None
    timed: bool = False
    sampling: FrameSampling = field(default_factory=FrameSampling)

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Without videos where prompts have none. Raises ``BundleError`` for settings that are malformed."""
        if settings.placeholders.video is None:
            return super().from_settings(settings)
        colours = {name: settings.image[name] for name in ("image_mean", "image_std", "resample")}
        image, video, timed = settings.image, colours | dict(settings.video), settings.model_type == "qwen3_vl"
        with settings.reading():
            fields = cls.read(settings)
            for name in ("patch_size", "merge_size", "temporal_patch_size"):
                if video.get(name, image[name]) != image[name]:
                    raise ValueError(f"{name} is {video[name]!r:.80} of videos, and {image[name]} of images")
            token = (fields["patch_size"] * fields["merge_size"]) ** 2
            vision = settings.model.get("vision_config") or {}
            rate = vision.get("tokens_per_second", 2) if settings.model_type == "qwen2_5_vl" else None
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"tokens_per_second is {rate!r:.80}, and must be above 0")
            video_mean, video_std = mean_and_std(video)
            return cls(
                **fields,
                video_bounds=PixelBounds.of(video, 128 * token, 768 * token, of_all_frames=timed),
                video_mean=video_mean,
                video_std=video_std,
                video_resample=resampling(video),
                video_resizes=bool(video.get("do_resize", True)),
                tokens_per_second=None if rate is None else float(rate),
                timed=timed,
                sampling=FrameSampling.of(settings.video, fields["temporal_patch_size"], ends=timed),
            )

    def process_video(
        self, frames: Sequence[NDArray[np.uint8]], fps: float, shown: Sequence[float] | None = None
    ) -> ProcessedImage:
        """Preprocess frames ``[H, W, 3]`` of one size, ``fps`` of them a second; the last is repeated to fill a patch.

        ``shown`` are their seconds, where they are not evenly spaced.

        Raises ``InvalidInputError`` for no frames, or frames of several sizes.
        """
        check_frames(frames)
        depth = self.temporal_patch_size
        if self.timed and len(frames) < depth:
            raise InvalidInputError(f"a video of {len(frames)} frames is too short; give {depth} or more")
        height, width, _ = frames[0].shape
        if self.video_resizes:
            height, width = self.size_of(height, width, self.video_bounds, len(frames))
        elif height % self._side or width % self._side:
            raise InvalidInputError(
                f"a video has frames of {width} x {height} pixels, and its settings resize none (do_resize); give frames whose "
                f"sides are multiples of {self._side}"
            )
        resized = [resize(frame, height, width, self.video_resample) for frame in frames]
        resized += [resized[-1]] * (-len(frames) % depth)
        found = self._patches(np.stack([normalize(frame, self.video_mean, self.video_std) for frame in resized]))
        assert found.grid is not None
        shown = [place / fps for place in range(len(frames))] if shown is None else shown
        times = [shown[min(place, len(frames) - 1)] for place in range(len(resized))]
        middles = [(times[at] + times[at + depth - 1]) / 2 for at in range(0, len(resized), depth)]
        return replace(
            found,
            is_video=True,
            interval=1.0 if self.tokens_per_second is None else self.tokens_per_second * depth / fps,
            timestamps=tuple(middles) if self.timed else (),
        )

    def _asked(self, size: Size, options: ImageOptions) -> Size:
        token = self._side**2
        least, most = _UTILS_LEAST_TOKENS * token, _UTILS_MOST_TOKENS * token
        if options.resized_height is not None and options.resized_width is not None:
            return self.size_of(options.resized_height, options.resized_width, PixelBounds(least, most))
        least = least if options.min_pixels is None else options.min_pixels
        most = most if options.max_pixels is None else options.max_pixels
        if least > most:
            raise InvalidInputError(
                f"an image's min_pixels {least} exceeds its max_pixels {most} (qwen-vl-utils' own where not given); give both"
            )
        return self.size_of(*size, PixelBounds(least, most))
