"""The maximum sequence length that a model was made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def longest_sequence(config: Any) -> int | None:
    """The maximum sequence length in tokens from a model's configuration; ``None`` if it has none.

    RoPE that is scaled with YaRN, or linearly, reaches ``factor`` times the length before scaling, whether
    ``max_position_embeddings`` was raised (as in most checkpoints) or not (as in Qwen's recipe for YaRN). transformers
    generates up to that length in both cases.
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return None
    return max([limit, *(_scaled(rope, limit) for rope in _rope_parameters(text))])


def _rope_parameters(config: Any) -> Iterator[Mapping[str, Any]]:
    """One mapping, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if "rope_type" in found or "type" in found:
        yield found
    else:
        yield from (value for value in found.values() if isinstance(value, Mapping))


def _scaled(rope: Mapping[str, Any], limit: int) -> int:
    kind = rope.get("rope_type", rope.get("type"))
    factor: float = rope.get("factor") or 1.0
    original: int | None = rope.get("original_max_position_embeddings")
    if kind == "yarn":
        return round((original or limit) * factor)
    if kind == "linear" and original:
        return round(original * factor)
    return 0
