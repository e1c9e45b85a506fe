"""What a checkpoint's own processor makes of a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from tt_edge.compile.vision.families import COORDINATES
from tt_edge.compile.vision.padded.flattened import FLATTENED_PATCHES
from tt_edge.contract import HIGH_RES_PIXELS
from tt_edge.errors import UnsupportedModelError

#: Names of the pixels among a processor's outputs; of videos, also those of where each patch of a frame is.
_PIXELS = ("pixel_values", "pixel_values_images", "image_pixel_values", FLATTENED_PATCHES)
_OF_VIDEOS, _OF_FRAMES = ("pixel_values_videos", "pixel_values"), "video_position_ids"


def on_canvas(pixels: torch.Tensor, like: Any) -> torch.Tensor:
    """Tiles ``[n, 3, h, w]`` with zeros at the right and below, where those of ``like`` are larger: a processor makes them as large
    as the largest of a call. Others are returned as they are."""
    if pixels.ndim != 4 or like.ndim != 4:
        return pixels
    below, right = (ours - theirs for ours, theirs in zip(like.shape[2:], pixels.shape[2:], strict=True))
    return functional.pad(pixels, (0, right, 0, below)) if min(below, right) >= 0 else pixels


@dataclass(frozen=True)
class Written:
    """A processor's answer to a prompt: the text that it tokenized, its outputs, and the settings it called for.

    ``video_settings`` are those that it calls its video processor with, whatever that one's own are.
    """

    text: str
    outputs: dict[str, Any]
    settings: dict[str, Any]
    video_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def token_ids(self) -> list[int]:
        ids: list[int] = self.outputs["input_ids"][0].tolist()
        return ids

    @property
    def pixels(self) -> torch.Tensor:
        """``[tiles, 3, H, W]`` of all images in order, without what only pads them; or patches."""
        return self._pixels(_PIXELS, COORDINATES)

    @property
    def of_videos(self) -> torch.Tensor:
        """``[frames, 3, H, W]`` of all videos, or patches."""
        return self._pixels(_OF_VIDEOS, _OF_FRAMES)

    @property
    def high_res(self) -> torch.Tensor | None:
        """``[tiles, 3, H, W]`` in the size that a second tower takes; ``None`` where it makes none."""
        return self._pixels((HIGH_RES_PIXELS,), COORDINATES) if HIGH_RES_PIXELS in self.outputs else None

    def _pixels(self, names: tuple[str, ...], coordinates: str) -> torch.Tensor:
        found = next((self.outputs[name] for name in names if name in self.outputs), None)
        if not isinstance(found, torch.Tensor):
            raise UnsupportedModelError(f"its processor makes {', '.join(self.outputs)}, and none is {names[0]}")
        places = self.outputs.get(coordinates)
        if isinstance(places, torch.Tensor):
            return found[(places >= 0).all(-1)]
        if FLATTENED_PATCHES in self.outputs:
            return found[..., 2:]
        if found.ndim <= 4:
            return found
        tiles = found.flatten(0, -4)
        return tiles[tiles.flatten(1).any(1)]
