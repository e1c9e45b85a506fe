"""Reading the settings of feature extractors. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tt_edge.errors import BundleError, UnsupportedModelError


def number(settings: Mapping[str, Any], name: str, default: int | None, most: int = 100_000) -> int:
    """A whole number from 1 to ``most``. Raises ``BundleError`` for another value, and for none without a default."""
    value = settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise BundleError(f"preprocessor_config.json has {name} {value!r}; compile the model again")
    return value


def flag(settings: Mapping[str, Any], name: str, default: bool) -> bool:
    """A boolean. Raises ``BundleError`` for another value."""
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise BundleError(f"preprocessor_config.json has {name} {value!r}; compile the model again")
    return value


def refuse_others(settings: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    """Raise ``UnsupportedModelError`` for a setting whose value is another than that in ``only``, the one that is followed.

    ``None`` and ``False`` say as little as 0.
    """
    for name, followed in only.items():
        value = settings.get(name, followed)
        if value != followed and (followed or value):
            raise UnsupportedModelError(
                f"the speech extractor's setting {name} is {value!r:.80}, which tt-edge does not follow (only {followed!r}); "
                "correct preprocessor_config.json and compile again, or give features to SourcePipeline.source in a program"
            )
