"""Videos of models whose images are grids of patches: the Qwen-VL and GLM-V models and others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tt_edge.compat import Self
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.patched.budget import BudgetProcessor
from tt_edge.runtime.multimodal.images.patched.grids import GridProcessor, PixelBounds
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.resize import normalize, resize
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, integer, mean_and_std, resampling
from tt_edge.runtime.multimodal.videos.by_second import PacedSampling, TickSampling
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.sampling import RATE, EvenSampling, FrameSampling, MostSampling, Sampling

#: Which time a patch of several frames has in a prompt: none, that of its first frame, or the middle of its first and last.
NONE, FIRST, MIDDLE = "", "first", "middle"
#: Qwen2.5-Omni, by its configuration or its language model's.
_OMNI = ("qwen2_5_omni", "qwen2_5_omni_thinker")
#: Of what a pixel may be, 255 and divided by the deviation: what a token's change at most where it is still (VideoLLaMA 3).
_STILL = 0.1


@dataclass(frozen=True)
class GridVideos:
    """Patches of ``grid``'s size, each of ``temporal_patch_size`` frames, of which the last is repeated to fill one.

    ``grid`` has the settings of videos. ``resizes``: frames are made as large as its bounds say. ``tokens_per_second``, of
    Qwen2.5-VL, is how many positions a second of video takes; ``moment`` says which time the prompt has of each patch.
    ``drops_still``: tokens that are as in the frame before are left out. ``untold_rate`` is what the frames of a file are taken
    to have, whatever was chosen, unless another rate is asked for (Qwen2.5-Omni). ``float32_times``: the times of a file's frames
    are in float32, because transformers has their numbers in a tensor: 0.65 s is written as 0.6. ``merge`` is that of
    ``ProcessedImage``.
    """

    grid: GridProcessor
    sampling: Sampling
    resizes: bool = True
    tokens_per_second: float | None = None
    moment: str = NONE
    drops_still: bool = False
    untold_rate: float | None = None
    float32_times: bool = False
    merge: int | None = None

    @classmethod
    def of_qwen2(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``Qwen2VLVideoProcessor``. Raises ``BundleError`` for settings that are malformed."""
        with settings.reading():
            omni = settings.model_type in _OMNI
            return cls(
                _qwen(settings, image, of_all_frames=False),
                FrameSampling.of(settings.video, image.temporal_patch_size, ends=False),
                bool(settings.video.get("do_resize", True)),
                _positions_a_second(settings),
                untold_rate=RATE if omni else None,
            )

    @classmethod
    def of_qwen3(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``Qwen3VLVideoProcessor``. Raises as ``of_qwen2`` does."""
        with settings.reading():
            return cls(
                _qwen(settings, image, of_all_frames=True),
                FrameSampling.of(settings.video, image.temporal_patch_size, ends=True),
                bool(settings.video.get("do_resize", True)),
                moment=MIDDLE,
            )

    @classmethod
    def of_glm4(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``Glm4vVideoProcessor``. Raises as ``of_qwen2`` does."""
        with settings.reading():
            return cls(_glm(settings.video, image), TickSampling.of(settings.video), moment=FIRST)

    @classmethod
    def of_glm46(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``Glm46VVideoProcessor``. Raises as ``of_qwen2`` does."""
        with settings.reading():
            sampling = PacedSampling.of(settings.video, own_rate=False)
            return cls(_glm(settings.video, image), sampling, moment=FIRST)

    @classmethod
    def of_glmga(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``GlmgaVideoProcessor``. Raises as ``of_qwen2`` does."""
        with settings.reading():
            sampling = PacedSampling.of(settings.video, own_rate=True)
            return cls(_glm(settings.video, image), sampling, moment=FIRST)

    @classmethod
    def of_gemma4(cls, settings: CheckpointSettings, _image: GridProcessor) -> Self:
        """As ``Gemma4VideoProcessor``. Raises as ``of_qwen2`` does."""
        grid = BudgetProcessor.of_gemma4(replace(settings, image=settings.video))
        with settings.reading():
            return cls(grid, EvenSampling.of(settings.video), moment=FIRST)

    @classmethod
    def of_cosmos_edge(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``Cosmos3EdgeVideoProcessor``. Raises as ``of_qwen2`` does."""
        with settings.reading():
            sampling = FrameSampling.of(settings.video, image.temporal_patch_size, ends=True)
            return cls(_glm(settings.video, image), sampling, moment=FIRST)

    @classmethod
    def of_llama3(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``VideoLlama3VideoProcessor``. Raises as ``of_qwen2`` does."""
        video, film = settings.video, settings.geometry.film_merge
        with settings.reading():
            bounds = PixelBounds.of(video, video["size"]["shortest_edge"], video["size"]["longest_edge"])
            grid = replace(image, merge_size=film) if film else image
            return cls(
                replace(_of_videos(grid, video, bounds), shares_pixels=True),
                FrameSampling.of(video, image.temporal_patch_size, ends=False),
                moment=FIRST,
                float32_times=True,
                drops_still=bool(video.get("use_token_compression", True)),
                merge=film or None,
            )

    @classmethod
    def of_muse(cls, settings: CheckpointSettings, image: GridProcessor) -> Self:
        """As ``MuseGlimmerVideoProcessor``. Raises as ``of_qwen2`` does."""
        grid = BudgetProcessor.of_muse_videos(replace(settings, image=settings.video))
        with settings.reading():
            sampling = MostSampling.of(settings.video, image.temporal_patch_size)
            return cls(grid, sampling, moment=FIRST, float32_times=True)

    def process(self, frames: Frames) -> ProcessedImage:
        """Preprocess a video. Raises ``InvalidInputError`` for frames that are too few, too elongated, or not to be resized."""
        grid, depth = self.grid, self.grid.temporal_patch_size
        count, (height, width) = len(frames.pixels), frames.size
        if grid.bounds.of_all_frames and count < depth:
            raise InvalidInputError(f"a video of {count} frames is too short; give {depth} or more")
        if self.resizes:
            height, width = grid.size_of_frames(frames.size, count)
        elif height % grid.side or width % grid.side:
            raise InvalidInputError(
                f"a video has frames of {width} x {height} pixels, and its settings resize none (do_resize); give frames whose "
                f"sides are multiples of {grid.side}"
            )
        resized = [resize(frame, height, width, grid.resample) for frame in frames.pixels]
        resized += [resized[-1]] * (-count % depth)
        found = grid.in_patches(np.stack([normalize(frame, grid.mean, grid.std) for frame in resized]))
        found = _without_still(found, grid.merge_size) if self.drops_still else found
        interval, a_second = self._interval(frames, depth)
        return replace(
            found,
            is_video=True,
            interval=interval,
            a_second=a_second,
            merge=self.merge,
            timestamps=self._moments(self._times(frames), depth),
            duration=frames.duration if self.moment else None,
        )

    def _interval(self, frames: Frames, depth: int) -> tuple[float, float]:
        """From one patch to the next: seconds, and how many positions one takes; or positions, of one each."""
        if self.tokens_per_second is None:
            return 1.0, 1.0
        if self.untold_rate is None:
            return self.tokens_per_second * depth / frames.fps, 1.0
        of_file = frames.duration is not None
        rate = frames.asked or self.untold_rate if of_file else frames.fps
        return depth / rate, self.tokens_per_second

    def _times(self, frames: Frames) -> tuple[float, ...]:
        if self.float32_times and frames.duration is not None:
            return tuple(float(np.float32(time)) for time in frames.times)
        return frames.times

    def _moments(self, times: tuple[float, ...], depth: int) -> tuple[float, ...]:
        if not self.moment:
            return ()
        filled = times + times[-1:] * (-len(times) % depth)
        first, last = filled[::depth], filled[depth - 1 :: depth]
        if self.moment == FIRST:
            return first
        return tuple((one + other) / 2 for one, other in zip(first, last, strict=True))


def _positions_a_second(settings: CheckpointSettings) -> float | None:
    """How many positions a second of video takes; ``None`` where positions do not tell the time. Raises ``ValueError`` for none."""
    if settings.model_type == "qwen2_5_vl":
        name, rate = "tokens_per_second", (settings.model.get("vision_config") or {}).get("tokens_per_second", 2)
    elif settings.model_type in _OMNI:
        name = "position_id_per_seconds"
        rate = settings.model.get(name, 25)
    else:
        return None
    if not 0 < rate < math.inf:
        raise ValueError(f"{name} is {rate!r:.80}, and must be above 0")
    return float(rate)


def _without_still(video: ProcessedImage, merge: int) -> ProcessedImage:
    """``video`` without the tokens whose pixels differ from those in the frame before by 0.1 in the mean, times 255, or less.

    Of a frame in which no token moves the first is kept (``VideoLlama3VideoProcessor._get_compression_mask``).
    """
    assert video.grid is not None
    frames = video.pixels.reshape(video.grid[0], -1, merge**2 * video.pixels.shape[1])  # of each token
    moved = np.ones(frames.shape[:2], bool)
    moved[1:] = np.abs(frames[1:] - frames[:-1]).mean(axis=-1, dtype=np.float32) * np.float32(255) > np.float32(_STILL)
    moved[~moved.any(axis=1), 0] = True
    kept = np.flatnonzero(moved)
    return replace(video, tokens=len(kept), rows=kept, of_frames=tuple(moved.sum(axis=1).tolist()))


def _qwen(settings: CheckpointSettings, image: GridProcessor, *, of_all_frames: bool) -> GridProcessor:
    """``image`` with what is otherwise of videos. What their settings lack is as for images."""
    video = {name: settings.image[name] for name in ("image_mean", "image_std", "resample")} | dict(settings.video)
    bounds = PixelBounds.of(video, 128 * image.side**2, 768 * image.side**2, of_all_frames=of_all_frames)
    return _of_videos(image, video, bounds)


def _glm(video: Mapping[str, Any], image: GridProcessor) -> GridProcessor:
    size = video["size"]
    bounds = PixelBounds.of(video, size["shortest_edge"], size["longest_edge"], of_all_frames=True)
    expand = integer(video.get("patch_expand_factor", 1), "patch_expand_factor")
    return replace(_of_videos(image, video, bounds), expand=expand, counts_frames=True)


def _of_videos(image: GridProcessor, video: Mapping[str, Any], bounds: PixelBounds) -> GridProcessor:
    """Raises ``ValueError`` for patches of another size than ``image`` has."""
    own = {
        "patch_size": image.patch_size,
        "merge_size": image.merge_size,
        "temporal_patch_size": image.temporal_patch_size,
    }
    for name, value in own.items():
        if video.get(name, value) != value:
            raise ValueError(f"{name} is {video[name]!r:.80} of videos, and {value} of images")
    mean, std = mean_and_std(video)
    return replace(image, bounds=bounds, mean=mean, std=std, resample=resampling(video))
