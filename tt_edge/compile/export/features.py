"""Model features that no backend supports, detected in the configuration and refused by name before tracing."""

from __future__ import annotations

from typing import Any

from tt_edge.errors import UnsupportedModelError

#: Settings that say how many experts a layer chooses from.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
#: The special feature of model types that can be traced but would compute wrong results, or not compile.
_FEATURES = {
    "diffllama": "differential attention, two attentions in each layer",
}
#: Of ``layer_types``: layers that are no attention.
_LAYERS = {"linear_attention": "linear attention or a state space", "conv": "convolutions"}


def check_features(config: Any, name: str) -> None:
    """Raise ``UnsupportedModelError`` for the model ``name`` if ``config`` has a feature that no backend supports."""
    text = config.get_text_config()
    experts = next((n for n in _EXPERTS if getattr(text, n, None)), None)
    # Some configurations copy the number of experts from larger models, and say in another setting that they have none.
    if experts is not None and getattr(text, "is_moe", True):
        raise UnsupportedModelError(
            f"{name} is a mixture of experts ({experts} {getattr(text, experts)}), which no backend has; compile a dense model"
        )
    kinds = getattr(text, "layer_types", None) or ()
    if (other := next((words for kind, words in _LAYERS.items() if kind in kinds), None)) is not None:
        raise UnsupportedModelError(
            f"{name} has {other} in place of attention in some layers, which no backend has; compile a model with attention in all"
        )
    if (feature := _FEATURES.get(text.model_type)) is not None:
        raise UnsupportedModelError(
            f"{name} has {feature}, which no backend has; compile a model with common attention"
        )
