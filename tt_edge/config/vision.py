"""How a vision tower is compiled. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from tt_edge.compat import StrEnum
from tt_edge.config.base import JsonConfig, require


class TowerAttention(StrEnum):
    """How attention in a vision tower is compiled."""

    #: TensorRT's attention layer, with masks.
    NATIVE = "native"
    #: NVIDIA Edge-LLM's ViTAttentionPlugin, with offsets.
    PLUGIN = "plugin"


@dataclass(frozen=True)
class VisionConfig(JsonConfig):
    """How a vision tower is compiled. Its ``attention`` may be the plugin's with any backend of the decoder.

    ``keep_image_tokens``: the part of the image tokens of each frame or tile that the language part gets, in (0, 1], or how many.
    """

    attention: TowerAttention = TowerAttention.NATIVE
    keep_image_tokens: float = 1.0

    def check(self) -> None:
        keep = self.keep_image_tokens
        is_number = isinstance(keep, int | float) and not isinstance(keep, bool)
        require(
            is_number and (0 < keep <= 1 or keep in range(2, 1 << 24)),
            f"--keep-image-tokens is {keep!r}; give a fraction above 0 and up to 1, or a number of tokens, 2 or more",
        )
        object.__setattr__(self, "keep_image_tokens", float(keep))
