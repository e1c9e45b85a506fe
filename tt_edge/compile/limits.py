"""The limits of a compile, resolved once: what the user asked for, within what the model can have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tt_edge.compile.checkpoint.limits import longest_sequence
from tt_edge.config.limits import Limits
from tt_edge.contract import TILES, VisionGeometry
from tt_edge.errors import InvalidInputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Image tokens in one call where the user says nothing.
_MIN_TOKENS, _MAX_TOKENS = 4, 1024


def within_model(limits: Limits, model: PreTrainedModel, *, fit: bool) -> Limits:
    """``limits``, their lengths within what the model was made for: lowered if ``fit``, or else refused."""
    most = longest_sequence(model.config)
    if most is None or limits.max_seq_len <= most:
        return limits
    if fit:
        return replace(limits, max_seq_len=most, max_input_len=min(limits.max_input_len, most))
    raise InvalidInputError(
        f"max_seq_len {limits.max_seq_len} exceeds the {most} tokens that the model was made for; "
        f"compile with --max-seq-len {most} or less"
    )


def with_image_tokens(limits: Limits, geometry: VisionGeometry, most_tiles: int) -> Limits:
    """``limits`` with numbers of image tokens: the user's, whole tiles of them, or defaults.

    ``most_tiles`` is how many an image may have. Raises ``InvalidInputError`` for limits that the tower cannot have.
    """
    unit = geometry.tokens_a_unit if geometry.unit == TILES else 1
    most = limits.max_image_tokens
    if most is None:
        most = most_tiles * unit if geometry.unit == TILES else _MAX_TOKENS
    least = min(limits.min_image_tokens or _MIN_TOKENS, most)
    if most < unit:
        raise InvalidInputError(
            f"max_image_tokens {most} is less than the {unit} of one image; give --max-image-tokens {unit} or more"
        )
    if most > limits.max_seq_len:
        if limits.max_image_tokens is None and geometry.unit != TILES:
            most = limits.max_seq_len
        else:
            raise InvalidInputError(
                f"max_image_tokens {most} exceeds max_seq_len {limits.max_seq_len}; raise --max-seq-len, or give a lower "
                "--max-image-tokens"
            )
    return replace(limits, min_image_tokens=min(least, most), max_image_tokens=most - most % unit)
