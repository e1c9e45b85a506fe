"""Frames of a video file. Needs PyAV."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from tt_edge.errors import InvalidInputError, MissingDependencyError, one_line
from tt_edge.runtime.multimodal.sources import Video, VideoFile
from tt_edge.runtime.multimodal.videos.sampling import Sampling


def read_video(source: VideoFile, sampling: Sampling, max_pixels: int) -> Video:
    """The frames that ``sampling`` takes, uint8 ``[H, W, 3]``, turned as the file says.

    Frames are counted, and checked against ``max_pixels`` together, before one is decoded. Raises ``InvalidInputError`` for a file
    that is missing, no video, too short or too large, and ``MissingDependencyError`` without PyAV.
    """
    av, path, file = _av(), source.name, _file(source)
    try:
        total, rate, size = _counted(av, file)
        if not total or not rate:
            raise InvalidInputError(f"video {path} says no frame rate or has no frames; convert it, for example to MP4")
        places = sampling.places(total, float(rate), source.fps, source.count)
        if (pixels := len(places) * size[0] * size[1]) > max_pixels:
            raise InvalidInputError(
                f"{len(places)} frames of video {path}, {size[0]} x {size[1]} pixels each, have {pixels:,} pixels, more than "
                f"{max_pixels:,}; take fewer frames (fps, or num_frames), or make the video smaller"
            )
        frames = _decoded(av, file, set(places))
    except av.error.FFmpegError as error:
        raise InvalidInputError(
            f"video {path} cannot be read ({error.strerror or one_line(error)}); give a file that FFmpeg reads"
        ) from error
    if lacking := [place for place in places if place not in frames]:
        raise InvalidInputError(
            f"video {path} ends before frame {lacking[0] + 1} of {total}; give a file that is whole"
        )
    sampled = len(places) / total * float(rate)
    times = tuple(place / float(rate) for place in places)
    return Video(tuple(frames[place] for place in places), sampled, times, total / float(rate), source.fps)


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("video files are read with PyAV; pip install 'tt-edge[video]'") from error
    module: ModuleType = av
    return module


def _file(source: VideoFile) -> str | io.BytesIO:
    if isinstance(source.file, bytes):
        return io.BytesIO(source.file)
    text = source.name
    if text.startswith(("http://", "https://")):
        raise InvalidInputError(f"video {text} is a URL, and nothing is downloaded here; give a file")
    path = Path(unquote(urlsplit(text).path) if text.startswith("file://") else text)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise InvalidInputError(f"video {text} {what}; give a file")
    return str(path)


def _counted(av: Any, file: str | io.BytesIO) -> tuple[int, Fraction | None, tuple[int, int]]:
    """Frames, frames a second, and ``(width, height)`` of the first video stream. Some formats do not say how many frames."""
    with av.open(file) as container:
        if not container.streams.video:
            raise InvalidInputError(f"{container.name or 'the file'} has no video; give a file that has one")
        stream = container.streams.video[0]
        rate, size = stream.average_rate, (stream.width, stream.height)
        total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    return total, rate, size


def _decoded(av: Any, file: str | io.BytesIO, places: set[int]) -> dict[int, NDArray[np.uint8]]:
    found: dict[int, NDArray[np.uint8]] = {}
    if not isinstance(file, str):
        file.seek(0)
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for place, frame in enumerate(container.decode(stream)):
            if place in places:
                pixels = frame.to_ndarray(format="rgb24")
                found[place] = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
            if len(found) == len(places):
                break
    return found
