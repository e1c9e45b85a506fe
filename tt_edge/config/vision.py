"""How a vision tower is compiled. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig


class TowerAttention(StrEnum):
    """How attention in a vision tower is compiled."""

    #: TensorRT's attention layer, with masks.
    NATIVE = "native"
    #: NVIDIA Edge-LLM's ViTAttentionPlugin, with offsets.
    PLUGIN = "plugin"


@dataclass(frozen=True)
class VisionConfig(JsonConfig):
    """How a vision tower is compiled. Its ``attention`` may be the plugin's with any backend of the decoder."""

    attention: TowerAttention = TowerAttention.NATIVE
