"""Videos of models whose images are tiles: a frame is one tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tt_edge.compat import Self
from tt_edge.runtime.multimodal.images.processed import ProcessedImage
from tt_edge.runtime.multimodal.images.settings import CheckpointSettings
from tt_edge.runtime.multimodal.images.tiled.rows_and_columns import MOST_SIDE, RowsAndColumnsProcessor
from tt_edge.runtime.multimodal.images.tiled.square import SquareProcessor
from tt_edge.runtime.multimodal.images.tiled.tiles import TilingProcessor
from tt_edge.runtime.multimodal.videos.frames import Frames
from tt_edge.runtime.multimodal.videos.sampling import EvenSampling, Sampling, UniformSampling, WithinSampling


@dataclass(frozen=True)
class TileVideos:
    """``frame`` makes the tile of a frame, with the settings of videos.

    ``rows`` are those of a frame's features among its tile's, of which it has so many (``rows_a_tile``); all where there are none.
    ``end`` is a row more behind the last frame. ``timed``: the prompt says when frames are shown.
    """

    frame: SquareProcessor | RowsAndColumnsProcessor | TilingProcessor
    sampling: Sampling
    rows_a_tile: int
    rows: tuple[int, ...] = ()
    end: int | None = None
    timed: bool = False

    @classmethod
    def of_squares(cls, settings: CheckpointSettings, _image: Any = None) -> Self:
        """As ``BaseVideoProcessor`` and ``InternVLVideoProcessor``. Raises ``BundleError`` for settings that are malformed."""
        frame = SquareProcessor.from_settings(_for_videos(settings, settings.video))
        with settings.reading():
            sampling = EvenSampling.of(settings.video)
        return cls._made(frame, sampling, settings)

    @classmethod
    def of_smolvlm(cls, settings: CheckpointSettings, _image: Any = None) -> Self:
        """As ``SmolVLMVideoProcessor``. Raises as ``of_squares`` does."""
        video = dict(settings.video)
        with settings.reading():
            older = video.get("video_sampling") or {}
            video |= {"fps": older["fps"], "num_frames": older["max_frames"]} if older else {}
            edge = min(video["size"]["longest_edge"], MOST_SIDE)
            video |= {"do_image_splitting": False, "size": {"longest_edge": edge}}
            sampling = WithinSampling.of(video)
        frame = RowsAndColumnsProcessor.from_settings(_for_videos(settings, video))
        return cls._made(frame, sampling, settings)

    @classmethod
    def of_vila(cls, settings: CheckpointSettings, image: TilingProcessor) -> Self:
        """As VILA's code: each frame is one tile, as an image beside others is. Raises as ``of_squares`` does."""
        with settings.reading():
            sampling = UniformSampling.of(settings.video)
        return cls._made(replace(image, min_tiles=1, max_tiles=1), sampling, settings)

    @classmethod
    def _made(
        cls,
        frame: SquareProcessor | RowsAndColumnsProcessor | TilingProcessor,
        sampling: Sampling,
        settings: CheckpointSettings,
    ) -> Self:
        geometry, text = settings.geometry, settings.placeholders.frames
        rows, end = range(geometry.tokens_a_unit - geometry.frame_rows, geometry.tokens_a_unit), None
        if geometry.frame_rows and geometry.frames_end:
            end = geometry.tokens_a_tile - 1
        timed = text is not None and text.has_times
        return cls(frame, sampling, geometry.tokens_a_unit, tuple(rows), end, timed)

    def process(self, frames: Frames) -> ProcessedImage:
        """Preprocess a video. Raises ``InvalidInputError`` for frames that are too elongated to be resized."""
        tiles = np.concatenate([self.frame.process(frame).pixels for frame in frames.pixels])
        rows = None
        if self.rows:
            first = np.arange(len(tiles))[:, None] * self.rows_a_tile
            rows = (first + np.array(self.rows)).reshape(-1)
            rows = rows if self.end is None else np.append(rows, self.end)
        return ProcessedImage(
            tiles,
            None,
            len(tiles) * self.rows_a_tile if rows is None else len(rows),
            is_video=True,
            timestamps=frames.times if self.timed else (),
            duration=frames.duration if self.timed else None,
            rows=rows,
        )


def _for_videos(settings: CheckpointSettings, video: Mapping[str, Any]) -> CheckpointSettings:
    """``settings`` with those of videos in the place of those of images."""
    return replace(settings, image=video)
