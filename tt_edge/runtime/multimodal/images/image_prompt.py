"""What a compile found of a checkpoint's images: which class prepares them, and how they stand in a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tt_edge.errors import BundleError
from tt_edge.runtime.multimodal.images.placeholders import Placeholders, TileText
from tt_edge.runtime.multimodal.leading import LeadingImage
from tt_edge.runtime.multimodal.mrope import CONTINUED, POSITIONS
from tt_edge.runtime.multimodal.videos.frame_text import FrameText
from tt_edge.runtime.text.tokenizer import Files, read_json

#: Of a bundle of a vision-language model.
IMAGE_PROMPT_FILE = "image_prompt.json"
#: Token ids are lower.
_MOST_ID = 1 << 31


@dataclass(frozen=True)
class ImagePrompt:
    """``processor`` is a class of transformers (``PROCESSOR_TYPES``); ``token_ids`` are the tokens that stand for a row of
        features, that of images, then that of videos, or those of ``Placeholders.learned``. ``settings`` are those of the image
    processor that hold whatever its file says: a processor may be called with other ones. ``instruction`` is the folder of the
    tokenizer whose ids of the prompt's text the network reads with each image; ``None`` where it reads pixels only. ``leading``:
    ids with an image before each text, where its tokens are known by their places. ``positions`` is the rule of ``POSITIONS`` for
    a model with M-RoPE. ``video`` is the class of transformers that prepares videos (``VIDEO_TYPES``); where there is none,
    ``no_videos`` may say why. ``video_settings`` are as ``settings``, of the video processor.
    """

    processor: str
    placeholders: Placeholders
    token_ids: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    instruction: str | None = None
    leading: LeadingImage | None = None
    positions: str = CONTINUED
    video: str | None = None
    no_videos: str = ""
    video_settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Files) -> ImagePrompt:
        """Of a bundle. Raises ``BundleError`` for one without it, or with fields that it cannot have."""
        found = read_json(files, IMAGE_PROMPT_FILE)
        if not found and files.has("preprocessor_config.json"):
            raise BundleError(
                f"the bundle has no {IMAGE_PROMPT_FILE}: it is from an earlier tt-edge, or the checkpoint names no image token of "
                "its tokenizer; compile the model again"
            )
        if not found:
            raise BundleError(
                "the bundle has no preprocessor_config.json or no image token, so images cannot be prepared; compile from a "
                "checkpoint that has its image processor's settings"
            )
        try:
            words = dict(found["placeholders"])
            tiles, learned, frames = words.pop("tiles"), words.pop("learned", []), words.pop("frames")
            if not isinstance(learned, list):
                raise TypeError(f"learned is {learned!r}")
            made = cls(
                str(found["processor"]),
                Placeholders(
                    **words,
                    tiles=None if tiles is None else TileText(**tiles),
                    learned=tuple(learned),
                    frames=None if frames is None else FrameText(**frames),
                ),
                tuple(found["token_ids"]),
                dict(found["settings"]),
                found.get("instruction"),
                None if found.get("leading") is None else LeadingImage.from_dict(found["leading"]),
                str(found.get("positions", CONTINUED)),
                found.get("video"),
                str(found.get("no_videos", "")),
                dict(found.get("video_settings", {})),
            )
            for name, value in (("instruction", made.instruction), ("video", made.video)):
                if not isinstance(value, str | None):
                    raise ValueError(f"{name} is {value!r}")
            _check(made.placeholders)
            _check_ids(made.token_ids)
            if made.positions not in POSITIONS:
                raise ValueError(f"positions is {made.positions!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{IMAGE_PROMPT_FILE} is malformed ({error!s:.80}); compile the model again") from error
        return made

    def to_json(self) -> bytes:
        """What ``read`` reads."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def _check(record: Placeholders | TileText | FrameText) -> None:
    for each in fields(record):
        value, default = getattr(record, each.name), each.default
        if isinstance(value, TileText | FrameText):
            _check(value)
        elif isinstance(value, tuple):
            if not all(isinstance(word, str) and word for word in value):
                raise ValueError(f"{each.name} is {value!r}")
        elif type(default) in (bool, float):
            if type(value) is not type(default):
                raise ValueError(f"{each.name} is {value!r}")
        elif not (isinstance(value, str) or (value is None and default is None)):
            raise ValueError(f"{each.name} is {value!r}")
    if isinstance(record, Placeholders) and "" in (record.image, record.video, record.written):
        raise ValueError("a placeholder is empty")  # it would be everywhere in a prompt


def _check_ids(token_ids: tuple[Any, ...]) -> None:
    if not token_ids or any(type(each) is not int or not 0 <= each < _MOST_ID for each in token_ids):
        raise ValueError(f"token_ids is {token_ids!r}")
