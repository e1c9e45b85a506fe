"""What a tiny checkpoint of a model type has otherwise than its classes' defaults, made small, and the sizes that all have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Size of the vocabulary, and the first id of its special tokens; pixels of a tile's side, and of a patch's.
VOCABULARY, IMAGE = 400, 300
SIDE, PATCH = 28, 7


@dataclass(frozen=True)
class Differs:
    """What a model type has otherwise: settings of its configuration (``a.b`` of a part; words mean their ids), those that it is
    ``made`` with, settings of its processor and image processor, special tokens by the names that the tokenizer has for them, and
    which of these is an image's. ``like``: it is a variant of this model type. ``named``: the tokenizer itself has names for the
    processor's tokens; ``roles`` are more of its special tokens."""

    like: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    token: str = "<image>"
    image_processor: str | None = None
    video_processor: str | None = None
    processor_class: str | None = None
    named: bool = True
    roles: dict[str, str] = field(default_factory=dict)


SQUARE = {"height": SIDE, "width": SIDE}
GRIDS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
