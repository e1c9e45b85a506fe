"""The supported families of vision-language models, and where each has its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from tt_edge.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class VLMFamily:
    """The structure of a family of vision-language models.

    Paths are those of submodules in the model. ``position_axes`` is 3 for M-RoPE text positions (temporal, height,
    width). ``tower`` is the kind of vision network: ``grid`` takes patches of images of any size; ``tiles`` takes tiles of
    one size, of which an image has at most ``most_tiles``.
    """

    decoder: str
    head: str
    tower: str
    position_axes: int = 1
    most_tiles: int = 1

    def decoder_of(self, model: PreTrainedModel) -> Any:
        """The module that computes hidden states from ``inputs_embeds``."""
        return model.get_submodule(self.decoder)

    def head_of(self, model: PreTrainedModel) -> nn.Module:
        head: nn.Module = model.get_submodule(self.head)
        return head


_QWEN = VLMFamily("model.language_model", "lm_head", "grid", position_axes=3)
_TILED = VLMFamily("model.language_model", "lm_head", "tiles")

#: By ``model_type``.
FAMILIES: dict[str, VLMFamily] = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "llava": _TILED,
    "internvl": replace(_TILED, most_tiles=13),  # twelve, and a thumbnail of the whole image
    "eagle2": VLMFamily("language_model.model", "language_model.lm_head", "tiles", most_tiles=13),
    "blip-2": VLMFamily("language_model.model", "language_model.lm_head", "tiles"),
}


def family_of(model: PreTrainedModel) -> VLMFamily | None:
    """The family of a vision-language model; ``None`` for a language model.

    Raises ``UnsupportedModelError`` for a vision-language model that is not among ``FAMILIES``.
    """
    config = model.config
    if getattr(config, "vision_config", None) is None:
        return None
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedModelError(
            f"vision-language models of type {config.model_type!r} are not supported; there are {', '.join(FAMILIES)}"
        )
    return family


def deepstack_levels(model: PreTrainedModel) -> int:
    """The number of first decoder layers that receive their own vision features (Qwen3-VL)."""
    return len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ())
