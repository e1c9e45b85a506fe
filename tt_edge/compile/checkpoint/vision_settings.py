"""Sizes of a checkpoint's vision tower, checked before transformers computes with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tt_edge.errors import InvalidInputError

#: Settings of ``vision_config`` that sizes are computed from, in pixels, patches, frames or channels.
_SIZES = (
    "image_size",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
    "in_channels",
    "in_chans",
    "num_channels",
)
_MOST = 16384


def check_vision_sizes(source: str, settings: Mapping[str, Any]) -> None:
    """Raise ``InvalidInputError`` for a size in ``config.json`` that is no integer from 1 to 16384.

    InternVL gives height and width of an image and of a patch as a list.
    """
    vision = settings.get("vision_config", {})
    if not isinstance(vision, Mapping):
        raise _wrong(source, "vision_config", vision, "an object")
    takes_lists = settings.get("model_type") == "internvl"
    for name in _SIZES:
        if name not in vision:
            continue
        value = vision[name]
        is_pair = takes_lists and isinstance(value, list) and len(value) == 2
        if not all(_is_size(one) for one in (value if is_pair else [value])):
            raise _wrong(source, f"vision_config.{name}", value, f"an integer from 1 to {_MOST}")
    if (size := settings.get("force_image_size")) and not _is_size(size):  # Eagle 2
        raise _wrong(source, "force_image_size", size, f"an integer from 1 to {_MOST}")


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _wrong(source: str, name: str, value: Any, wanted: str) -> InvalidInputError:
    return InvalidInputError(
        f"checkpoint {source}: {name} of config.json is {value!r:.80}, not {wanted}; correct it, or download the checkpoint "
        "again"
    )
