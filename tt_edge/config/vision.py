"""What a vision tower becomes. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig


class TowerAttention(StrEnum):
    """What attention in a vision tower becomes."""

    #: TensorRT's attention layer, with masks.
    NATIVE = "native"
    #: NVIDIA Edge-LLM's ViTAttentionPlugin, with offsets.
    PLUGIN = "plugin"


@dataclass(frozen=True)
class VisionConfig(JsonConfig):
    """What a vision tower becomes. Its ``attention`` may be the plugin's on any backend of the decoder."""

    attention: TowerAttention = TowerAttention.NATIVE
