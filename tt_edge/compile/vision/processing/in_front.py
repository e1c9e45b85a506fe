"""How a checkpoint's own processor puts an image in front of a text that says nothing of it, where it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tt_edge.compile.vision.families import PLACES
from tt_edge.compile.vision.processing.fit_leading import fit_leading
from tt_edge.compile.vision.processing.written import Written
from tt_edge.errors import UnsupportedModelError
from tt_edge.runtime.multimodal.leading import LeadingImage

_TEXT = "Look:  so"
#: What it makes of a text with an image.
Asks = Callable[[str], Written]


def leads(ask: Asks, tokenizer: Any) -> bool:
    """Whether it puts equal tokens of an image before a text, and before the token that begins texts."""
    try:
        ids = ask(_TEXT).token_ids
    except UnsupportedModelError:
        return False
    own = tokenizer(_TEXT)["input_ids"]
    image = ids[: -len(own)]
    return bool(ids[-len(own) :] == own and len(set(image)) == 1)


def leading_image(ask: Asks, tokenizer: Any) -> LeadingImage | None:
    """How it puts an image before a text, where a mask of its outputs says in which places."""

    def make(text: str) -> tuple[list[int], list[int]]:
        written = ask(text)
        return written.token_ids, _mask(written)

    try:
        return fit_leading(make, lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]))
    except (UnsupportedModelError, ValueError, TypeError, LookupError, AttributeError, RuntimeError):
        return None


def marked_places(ask: Asks) -> tuple[int, ...]:
    """The places before and behind an image that the mask tells from those of an image and of a text (Kosmos-2.5)."""
    return tuple(place for place, kind in enumerate(_mask(ask(_TEXT))) if kind == -1)


def _mask(written: Written) -> list[int]:
    found: list[int] = next((value[0].tolist() for name, value in written.outputs.items() if name.endswith(PLACES)), [])
    return found
