"""Settings of a checkpoint's processor that transformers takes for granted, checked by name before it reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tt_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from tt_edge.compile.checkpoint.checkpoint import Checkpoint

_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
#: Parts of a processor, each an object of settings.
_PARTS = ("image_processor", "video_processor", "feature_extractor", "audio_processor")
#: Names of classes.
_CLASSES = ("processor_class", *(f"{part}_type" for part in _PARTS))


def check_processor(checkpoint: Checkpoint) -> None:
    """Raise ``InvalidInputError`` for a class that is no name, and a part of the processor that is no object."""
    for file in _FILES:
        settings = checkpoint.read_json(file)
        parts = {name: settings[name] for name in _PARTS if settings.get(name) is not None}
        for name, part in parts.items():
            if not isinstance(part, Mapping):
                raise _wrong(checkpoint, file, name, part, "an object")
        for before, part in {"": settings, **{f"{name}.": part for name, part in parts.items()}}.items():
            for name in _CLASSES:
                if not isinstance(part.get(name), str | None):
                    raise _wrong(checkpoint, file, f"{before}{name}", part[name], "the name of a class")


def _wrong(checkpoint: Checkpoint, file: str, name: str, value: Any, wanted: str) -> InvalidInputError:
    return InvalidInputError(
        f"checkpoint {checkpoint.source}: {name} of {file} is {value!r:.80}, not {wanted}; correct it, or download the checkpoint "
        "again"
    )
