"""Tensors of a checkpoint that the model does not have: what they mean, and whether they can be ignored."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from torch import nn

from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.checkpoint.checkpoint import Checkpoint

_LOGGER = logging.getLogger("tt_edge")

#: Left in old checkpoints by modules that compute it.
_COMPUTED = ("rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".attention.bias", "position_ids")
#: Names that belong to a quantized layer: without them its weight means something else.
_OF_QUANTIZATION = re.compile(
    r"(^|[._])(scales?|scale_inv|qweight|qzeros|g_idx|zero_point|weight_packed|quantizer|amax|absmax|quant_map|quant_state)([._]|$)"
)
_PEFT_PREFIX = "base_model.model."


def check_places(checkpoint: Checkpoint, model: PreTrainedModel, unexpected: Collection[str]) -> None:
    """Refuse a checkpoint with unused tensors that change the model's results; warn about other unused tensors.

    A tensor of quantization, or one inside a layer that the model has, changes the results. A part that the model does not
    have (a value head, layers for multi-token prediction) does not. Raises ``UnsupportedModelError``.
    """
    left = sorted(name for name in unexpected if not name.endswith(_COMPUTED))
    for name in left:
        if _OF_QUANTIZATION.search(name):
            raise UnsupportedModelError(
                f"checkpoint {checkpoint.source} has a tensor {name}, for which the model has no place, and quantized weights "
                "mean nothing without it; use a checkpoint whose config.json has its quantization_config, or the full-precision "
                "one with --quant"
            )
        if (layer := _layer_of(model, name)) is not None:
            raise UnsupportedModelError(
                f"checkpoint {checkpoint.source} has a tensor {name}, for which the model has no place in {layer}; "
                f"check config.json against it, or give a checkpoint of {type(model).__name__}"
            )
    if left:
        _LOGGER.warning(
            "tensor %s of %s has no place in %s and is not used (%d such in all)",
            left[0],
            checkpoint.source,
            type(model).__name__,
            len(left),
        )


def _layer_of(model: PreTrainedModel, name: str) -> str | None:
    """The nearest module of the model that holds ``name``, unless that is the model, its base, or a list of layers."""
    path = name.rpartition(".")[0]
    while path:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            path = path.rpartition(".")[0]
            continue
        outer = path.count(".") == 0 and path == model.base_model_prefix
        return None if outer or isinstance(module, nn.ModuleList) or hasattr(module, "config_class") else path
    return None


def missing_weights(checkpoint: Checkpoint, missing: Collection[str], unexpected: Collection[str]) -> InvalidInputError:
    """The error for missing weights, with the cause if the existing tensors reveal it."""
    first, count = min(missing), len(missing)
    why = f"checkpoint {checkpoint.source} does not load: weight {first} is missing ({count} in all)"
    if any(name.startswith(_PEFT_PREFIX) for name in unexpected):
        return InvalidInputError(
            f"{why}, and its tensors have PEFT's prefix {_PEFT_PREFIX}; merge the adapter into its model with "
            "merge_and_unload(), save that, and give its folder"
        )
    if unexpected and count > len(unexpected) // 2:
        return InvalidInputError(
            f"{why}, and it has a tensor {min(unexpected)} that the model has not; its config.json is of another model than "
            "its weights"
        )
    return InvalidInputError(f"{why}; download it again")
