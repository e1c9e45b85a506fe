"""Which checkpoints are of an architecture of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tt_edge.compile.vision.adapters.eagle2 import is_eagle2
from tt_edge.compile.vision.adapters.vila_checkpoint import MODEL_TYPES


def own_architecture(settings: Mapping[str, Any]) -> str | None:
    """The name of the architecture of a ``config.json``; ``None`` where it is one of transformers."""
    if is_eagle2(settings):
        return "Eagle 2"
    return "VILA" if settings.get("model_type") in MODEL_TYPES else None
