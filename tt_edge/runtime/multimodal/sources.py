"""Where the images of a prompt come from: files, URLs and pixels, and the messages and JSONL lines that name them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tt_edge.errors import InvalidInputError
from tt_edge.runtime.multimodal.images.load import ImageFile
from tt_edge.runtime.multimodal.images.options import AS_IT_IS, ImageOptions
from tt_edge.runtime.multimodal.images.processed import ProcessedImage

#: Frames a second of a video, from one in a quarter of an hour to a fast camera's. Far outside, positions overflow.
MIN_FPS, MAX_FPS = 0.001, 1000


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video, already chosen, ``fps`` of them a second. 2 is what the Qwen-VL models are trained at.

    ``times`` are the seconds at which they are shown, where they are not evenly spaced from 0; ``duration`` is that of their file,
    of which ``asked`` frames a second were asked for, if any were. Raises ``InvalidInputError`` for a rate that no video has.
    """

    frames: Sequence[ImageFile]
    fps: float = 2.0
    times: Sequence[float] | None = None
    duration: float | None = None
    asked: float | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"of {len(self.frames)} frames"

    def __post_init__(self) -> None:
        if not isinstance(self.fps, int | float) or not MIN_FPS <= self.fps <= MAX_FPS:
            raise InvalidInputError(
                f"a video's fps is {self.fps!r}; give its frames a second, a number from {MIN_FPS} to {MAX_FPS}"
            )


@dataclass(frozen=True, eq=False)
class VideoFile:
    """A video file, or its content, of which the checkpoint's video processor chooses the frames.

    ``fps`` frames of each second or ``count`` of the whole file, in place of the processor's own. Raises ``InvalidInputError`` for
    both, and for numbers that cannot be.
    """

    file: str | os.PathLike[str] | bytes
    fps: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.count is not None:
            raise InvalidInputError(f"video {self.name} has fps {self.fps!r} and num_frames {self.count!r}; give one")
        if self.fps is not None and not (isinstance(self.fps, int | float) and MIN_FPS <= self.fps <= MAX_FPS):
            raise InvalidInputError(
                f"video {self.name} has fps {self.fps!r}; give how many frames of a second to take, from {MIN_FPS} to {MAX_FPS}"
            )
        if self.count is not None and not (isinstance(self.count, int) and self.count > 0):
            raise InvalidInputError(f"video {self.name} has num_frames {self.count!r}; give how many frames to take")

    @property
    def name(self) -> str:
        """For messages."""
        return "given as bytes" if isinstance(self.file, bytes) else os.fspath(self.file)


@dataclass(frozen=True, eq=False)
class SizedImage:
    """An image with a size that is asked for."""

    image: ImageFile
    options: ImageOptions


#: An image, as a file or pixels, with a size or preprocessed already; or a video.
ImageSource: TypeAlias = ImageFile | SizedImage | Video | VideoFile | ProcessedImage


def images_of(messages: Sequence[Any]) -> list[ImageSource]:
    """The images and videos of a conversation, in order.

    Parts ``{"type": "image", "image": …}`` (or ``path``, ``url``, ``base64``), OpenAI's ``image_url``, and ``{"type": "video",
    "video": [frame, …], "fps": 2}`` or ``"video": FILE``, with ``fps`` or ``num_frames``. An image may have qwen-vl-utils'
    ``min_pixels``, ``max_pixels``, or ``resized_height`` and ``resized_width``, and OpenAI's ``detail``. Raises
    ``InvalidInputError`` for a size that is none, and for a video that is not a list of frames and their rate, or a file. What is
    no message, the chat template refuses.
    """
    found: list[Any] = []  # of another type: refused when it is read
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "image":
                found.append(_sized(_named(part), ImageOptions.of(part)))
            elif kind == "image_url":
                url = part.get("image_url")
                options = ImageOptions.of({**part, **(url if isinstance(url, dict) else {})})
                found.append(_sized(url.get("url") if isinstance(url, dict) else url, options))
            elif kind == "video" and "video" not in part:
                found.append(None)  # a placeholder, for a chat that is only rendered
            elif kind == "video":
                frames = part["video"]
                if isinstance(frames, str | os.PathLike):
                    found.append(VideoFile(frames, part.get("fps"), part.get("num_frames", part.get("nframes"))))
                    continue
                if not isinstance(frames, list | tuple):
                    raise InvalidInputError(
                        f"video {frames!r} is no file and no list; give a file, or a list of frames"
                    )
                found.append(Video(tuple(frames), part.get("sample_fps", part.get("fps", Video.fps))))
    return found


def _named(part: Mapping[str, Any]) -> Any:
    """The image of a part of type ``image``, by the names that transformers and qwen-vl-utils take."""
    base64 = part.get("base64")
    if isinstance(base64, str) and not base64.startswith("data:"):
        base64 = f"data:image;base64,{base64}"
    return next((part[name] for name in ("image", "path", "url") if name in part), base64)


def _sized(image: Any, options: ImageOptions) -> Any:
    return image if options == AS_IT_IS else SizedImage(image, options)


def images_of_row(row: Mapping[str, Any], folder: Path) -> tuple[ImageSource, ...]:
    """The images of a line of a JSONL file in ``folder``: the files that ``images`` names there, or else its ``messages``' own.

    Raises ``InvalidInputError`` where ``images`` is no list of names, and as ``images_of`` does.
    """
    given = row.get("images", [])
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InvalidInputError(f"images is {given!r}; give a list of file names")
    if given:
        return tuple(str(folder / name) for name in given)
    messages = row.get("messages")
    return tuple(images_of(messages)) if isinstance(messages, list) else ()
