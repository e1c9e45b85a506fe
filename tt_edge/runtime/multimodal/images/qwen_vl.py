"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of nearly their own size, and videos, in patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tt_edge.compat import Self
from tt_edge.contract import VisionGeometry
from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, LOW_DETAIL_PIXELS, ImageOptions
from tt_edge.runtime.multimodal.images.placeholders import Placeholders
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.processor_types import MEAN, STD
from tt_edge.runtime.multimodal.images.resize import check_resize, normalize, resize, resize_at_once
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings, integer, mean_and_std, resampling

#: Longest side by shortest, at most (transformers, ``smart_resize``).
_MAX_RATIO = 200

#: Image tokens of an image for which no bounds are given (qwen-vl-utils, ``IMAGE_MIN_TOKEN_NUM``, ``IMAGE_MAX_TOKEN_NUM``).
_UTILS_LEAST_TOKENS, _UTILS_MOST_TOKENS = 4, 16384

#: Of the bounds that settings may give: more than all frames of an hour in full HD have.
_MOST_PIXELS = 1 << 40

#: Height and width in pixels.
Size = tuple[int, int]

PLACEHOLDERS = Placeholders("<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class PixelBounds:
    """The least and most pixels of an image; of all frames together where ``of_all_frames``."""

    least: int
    most: int
    of_all_frames: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], least: int, most: int, *, of_all_frames: bool = False) -> Self:
        """From a processor's settings, or else the numbers given."""
        size = settings.get("size") or {}
        # Like transformers: the older names win where both are there.
        least = settings.get("min_pixels") or size.get("shortest_edge") or least
        most = settings.get("max_pixels") or size.get("longest_edge") or most
        return cls(
            integer(least, "the least number of pixels", _MOST_PIXELS),
            integer(most, "the largest number of pixels", _MOST_PIXELS),
            of_all_frames,
        )

    def at_most(self, pixels: int) -> PixelBounds:
        """These bounds, and no more than ``pixels``."""
        return replace(self, least=min(self.least, pixels), most=min(self.most, pixels))


def _check_network_takes(geometry: VisionGeometry, patch: int, merge: int, depth: int) -> None:
    """Raise ``ValueError`` for patches of another size than the vision network takes."""
    if merge != geometry.merge_size:
        raise ValueError(f"merge_size is {merge}, and the vision network has {geometry.merge_size}")
    if 3 * depth * patch**2 != geometry.patch_dim:
        raise ValueError(
            f"patch_size {patch} and temporal_patch_size {depth} make patches of {3 * depth * patch**2} numbers, and the vision "
            f"network takes {geometry.patch_dim}"
        )


def check_frames(frames: Sequence[NDArray[np.uint8]]) -> None:
    """Raises ``InvalidInputError`` for no frames ``[H, W, 3]``, or frames of several sizes."""
    if not frames:
        raise InvalidInputError("a video of 0 frames is none; give its frames")
    if len(sizes := {frame.shape for frame in frames}) > 1:
        raise InvalidInputError(f"a video has frames of sizes {sorted(s[:2] for s in sizes)}; give frames of one size")


@dataclass(frozen=True)
class QwenVLProcessor:
    """As ``Qwen2VLImageProcessor`` and the video processors: sides to multiples of a token's, pixels between two bounds.

    An image is two equal frames. ``tokens_per_second``, of Qwen2.5-VL, is how many positions a second of video takes;
    ``timed``, of Qwen3-VL, has the time in the prompt before each frame.
    """

    placeholders: Placeholders = PLACEHOLDERS
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    bounds: PixelBounds = PixelBounds(56 * 56, 28 * 28 * 1280)
    video_bounds: PixelBounds = PixelBounds(128 * 28 * 28, 768 * 28 * 28)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    video_mean: tuple[float, ...] = MEAN
    video_std: tuple[float, ...] = STD
    resample: int = 3
    video_resample: int = 3
    video_resizes: bool = True
    tokens_per_second: float | None = None
    timed: bool = False

    @classmethod
    def from_settings(cls, settings: CheckpointSettings) -> Self:
        """Raises ``BundleError`` for settings that are malformed."""
        colours = {name: settings.image[name] for name in ("image_mean", "image_std", "resample")}
        image, video, timed = settings.image, colours | dict(settings.video), settings.model_type == "qwen3_vl"
        with settings.reading():
            patch = integer(image["patch_size"], "patch_size")
            merge = integer(image["merge_size"], "merge_size")
            depth = integer(image["temporal_patch_size"], "temporal_patch_size")
            _check_network_takes(settings.geometry, patch, merge, depth)
            for name in ("patch_size", "merge_size", "temporal_patch_size"):
                if video.get(name, image[name]) != image[name]:
                    raise ValueError(f"{name} is {video[name]!r:.80} of videos, and {image[name]} of images")
            token = (patch * merge) ** 2
            vision = settings.model.get("vision_config") or {}
            rate = vision.get("tokens_per_second", 2) if settings.model_type == "qwen2_5_vl" else None
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"tokens_per_second is {rate!r:.80}, and must be above 0")
            mean, std = mean_and_std(image)
            video_mean, video_std = mean_and_std(video)
            return cls(
                placeholders=settings.placeholders,
                patch_size=patch,
                merge_size=merge,
                temporal_patch_size=depth,
                bounds=PixelBounds.of(image, cls.bounds.least, cls.bounds.most),
                video_bounds=PixelBounds.of(video, 128 * token, 768 * token, of_all_frames=timed),
                mean=mean,
                std=std,
                video_mean=video_mean,
                video_std=video_std,
                resample=resampling(image),
                video_resample=resampling(video),
                video_resizes=bool(video.get("do_resize", True)),
                tokens_per_second=None if rate is None else float(rate),
                timed=timed,
            )

    @property
    def most_tiles(self) -> int:
        """One: an image is a grid of patches."""
        return 1

    def tokens_of(self, size: tuple[int, int], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None) -> int:
        """Image tokens of an image of ``(height, width)``; more than ``max_tokens`` only where a side is one token already."""
        height, width = self.sizes(size, options, max_tokens)[-1]
        return height * width // self._side**2

    def process(
        self, image: NDArray[np.uint8], options: ImageOptions = AS_IT_IS, max_tokens: int | None = None
    ) -> ProcessedImage:
        """Preprocess an image ``[H, W, 3]``."""
        asked, final = self.sizes((image.shape[0], image.shape[1]), options, max_tokens)
        if asked is not None:
            image = resize_at_once(image, *asked)
        pixels = normalize(resize(image, *final, self.resample), self.mean, self.std)  # [3, H, W]
        return self._patches(np.broadcast_to(pixels, (self.temporal_patch_size, *pixels.shape)))

    def process_video(self, frames: Sequence[NDArray[np.uint8]], fps: float) -> ProcessedImage:
        """Preprocess frames ``[H, W, 3]`` of one size, ``fps`` of them a second; the last is repeated to fill a patch.

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
        times = [min(place, len(frames) - 1) / fps for place in range(len(resized))]
        middles = [(times[at] + times[at + depth - 1]) / 2 for at in range(0, len(resized), depth)]
        return replace(
            found,
            is_video=True,
            interval=1.0 if self.tokens_per_second is None else self.tokens_per_second * depth / fps,
            timestamps=tuple(middles) if self.timed else (),
        )

    def sizes(self, size: Size, options: ImageOptions, max_tokens: int | None) -> tuple[Size | None, Size]:
        """The sizes that an image is made: the one that ``options`` ask for, as qwen-vl-utils computes it, and the final one.

        Raises ``InvalidInputError`` for an image that is too elongated, or too large to be resized.
        """
        asked, bounds = None, self.bounds
        if options.sets_pixels:
            asked = self._asked(size, options)
            check_resize(size, asked)
        if options.low_detail:
            bounds = bounds.at_most(LOW_DETAIL_PIXELS)
        if max_tokens is not None:
            bounds = bounds.at_most(max_tokens * self._side**2)
        final = self.size_of(*(asked or size), bounds)
        check_resize(asked or size, final)
        return asked, final

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

    @property
    def _side(self) -> int:
        """Pixels of a token's side."""
        return self.patch_size * self.merge_size

    def size_of(self, height: int, width: int, bounds: PixelBounds | None = None, frames: int = 1) -> tuple[int, int]:
        """The size, in pixels, that an image is made: multiples of a token's side, the number of pixels within ``bounds``.

        Where those are of all ``frames``, frames are counted as the patches hold them, and small ones enlarged first.
        """
        factor, bounds = self._side, bounds or self.bounds
        count = whole_count = 1
        if bounds.of_all_frames:
            count = frames
            whole_count = round(frames / self.temporal_patch_size) * self.temporal_patch_size
            if min(height, width) < factor:
                scale = max(factor / height, factor / width)
                height, width = int(height * scale), int(width * scale)
        ratio = max(height, width) / min(height, width)
        if ratio > _MAX_RATIO:
            raise InvalidInputError(
                f"an image of {width} x {height} pixels is longer than {_MAX_RATIO} times its width; crop it"
            )
        rows, columns = (max(1, round(side / factor)) * factor for side in (height, width))
        whole = whole_count * round(height / factor) * round(width / factor) * factor**2
        if whole > bounds.most:
            shrink = math.sqrt(count * height * width / bounds.most)
            rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif whole < bounds.least:
            grow = math.sqrt(bounds.least / (count * height * width))
            rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return rows, columns

    def _patches(self, frames: NDArray[np.float32]) -> ProcessedImage:
        """``[t * temporal_patch_size, 3, H, W]`` in patches, block by block of those that become one token."""
        patch, merge, depth = self.patch_size, self.merge_size, self.temporal_patch_size
        count, channels, height, width = frames.shape
        grid = count // depth, height // patch, width // patch
        apart = frames.reshape(
            grid[0], depth, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
        )  # t, depth, channel, row, row in block, y, column, column in block, x
        ordered = apart.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
        pixels = np.ascontiguousarray(ordered).reshape(math.prod(grid), channels * depth * patch * patch)
        return ProcessedImage(pixels, grid, math.prod(grid) // merge**2)
