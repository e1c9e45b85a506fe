"""What a checkpoint's processor calls its parts with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


def settings_of_call(processor: Any, call: Mapping[str, Any], but: set[str]) -> dict[str, Any]:
    """The settings of an image or video ``processor`` in a ``call`` of it, ``but`` for what is no setting."""
    known = set(type(processor).valid_kwargs.__annotations__) - but
    return {name: value for name, value in call.items() if name in known and value is not None}


@contextmanager
def recorded(kind: Any, seen: Any) -> Iterator[None]:
    """Within the block, ``seen`` gets the arguments of each call of an object of the class ``kind``."""
    original = kind.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen(args, kwargs)
        return original(self, *args, **kwargs)

    with patch.object(kind, "__call__", call):
        yield
