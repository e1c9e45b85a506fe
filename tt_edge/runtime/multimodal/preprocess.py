"""Prompts with images, on their way to a model: token ids, and the images preprocessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.runtime.multimodal.images import (
    ImageFile,
    ImageProcessor,
    ProcessedImage,
    image_processor_for,
    pixels_of,
    read_settings,
)
from tt_edge.runtime.text.tokenizer import BundleTokenizer, Files, read_json
from tt_edge.vision_contract import VisionGeometry

#: Frames a second of a video: from one in a quarter of an hour to a fast camera's. Far beyond, positions overflow.
MIN_FPS, MAX_FPS = 0.001, 1000


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video, already chosen, ``fps`` of them a second. 2 is what the Qwen-VL models are trained at.

    Raises ``InvalidInputError`` for a rate that no video has.
    """

    frames: Sequence[ImageFile]
    fps: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.fps, int | float) or not MIN_FPS <= self.fps <= MAX_FPS:
            raise InvalidInputError(
                f"a video's fps is {self.fps!r}; give its frames a second, a number from {MIN_FPS} to {MAX_FPS}"
            )


ImageSource: TypeAlias = ImageFile | Video


class Preprocessor:
    """What a checkpoint's own processor does: prompts to token ids, images to pixels.

    ``token_ids`` are the tokens that stand for a row of features, of images and of videos. ``read_processor`` finds both.
    """

    def __init__(self, processor: ImageProcessor, token_ids: Sequence[int]) -> None:
        self.processor, self.token_ids = processor, tuple(token_ids)

    def tokenize(
        self, tokenizer: BundleTokenizer, prompt: str, sources: Sequence[ImageSource], *, add_special_tokens: bool
    ) -> tuple[list[int], list[ProcessedImage]]:
        """Token ids of ``prompt``, its placeholders as long as the images are; and the images, preprocessed, in their order.

        Raises ``InvalidInputError`` for images that cannot be read, and for another number of placeholders.
        """
        processed = [self.process(source) for source in sources]
        text, leading, ordered = self.processor.placeholders.expand(prompt, processed)
        ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [self.token_ids[0]] * leading + ids, ordered

    def process(self, source: ImageSource) -> ProcessedImage:
        """Read and preprocess an image or a video. Raises ``InvalidInputError`` for one that cannot be read."""
        if not isinstance(source, Video):
            return self.processor.process(pixels_of(source))
        take = getattr(self.processor, "process_video", None)
        if take is None:
            raise UnsupportedModelError("this model takes no videos; give its frames as images")
        processed: ProcessedImage = take([pixels_of(frame) for frame in source.frames], source.fps)
        return processed


def read_processor(
    files: Files, geometry: VisionGeometry, tokenizer: BundleTokenizer
) -> tuple[ImageProcessor, list[int]]:
    """The preprocessing that a bundle's files describe, and the tokens that stand for its features.

    Raises ``BundleError`` where they lack the settings that it needs.
    """
    model = read_json(files, "config.json")
    named = {
        "image": model.get("image_token_id", model.get("image_token_index")),
        "video": model.get("video_token_id"),
    }
    ids = {kind: index for kind, index in named.items() if isinstance(index, int)}
    tokens = {kind: tokenizer.backend.id_to_token(ids[kind]) if kind in ids else None for kind in named}
    return image_processor_for(read_settings(files, model, geometry, tokens)), list(ids.values())


def images_of(messages: Sequence[Any]) -> list[ImageSource]:
    """The images and videos of a conversation, in order.

    Parts ``{"type": "image", "image": …}``, OpenAI's ``image_url``, and ``{"type": "video", "video": [frame, …], "fps": 2}``.
    Raises ``InvalidInputError`` for a video that is not a list of frames and their rate. What is no message, the chat template
    refuses.
    """
    found: list[Any] = []  # of another type: refused when it is read
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else []:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "image":
                found.append(part.get("image", part.get("path", part.get("url"))))
            elif kind == "image_url":
                url = part.get("image_url")
                found.append(url.get("url") if isinstance(url, dict) else url)
            elif kind == "video":
                frames = part.get("video")
                if not isinstance(frames, list | tuple):
                    raise InvalidInputError(
                        f"video {frames!r} is no list; video files are not read, give a list of frames"
                    )
                found.append(Video(tuple(frames), part.get("sample_fps", part.get("fps", Video.fps))))
    return found


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
