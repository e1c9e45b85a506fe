"""The limits of a compile, resolved once: the user's limits, checked against those of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tt_edge.compile.checkpoint.limits import longest_sequence
from tt_edge.config.limits import Limits
from tt_edge.contract import TILES, WHOLE_IMAGES, VisionGeometry
from tt_edge.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tt_edge.compile.seq2seq.model import Seq2Seq

#: Default number of image tokens in one call.
_MIN_TOKENS, _MAX_TOKENS = 4, 1024
#: Default number of tokens of a text that is translated or summarised.
_SOURCE_TOKENS = 1024
#: Tokens of the longest source, at least: sizes of a traced example are distinct from the batch's, which is 2.
SHORTEST_SOURCE = 3
#: The settings that say how many positions an encoder of text, and a decoder, was made for.
_SOURCE_LIMITS, _TARGET_LIMITS = (
    ("max_source_positions", "max_position_embeddings", "n_positions"),
    ("max_target_positions", "max_position_embeddings"),
)


def within_model(limits: Limits, model: PreTrainedModel, *, fit: bool) -> Limits:
    """``limits`` with lengths within the model's maximum: lowered if ``fit``, otherwise refused with an error."""
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
    """``limits`` with numbers of image tokens: the user's (rounded up to whole tiles that the prompt has room for), or defaults.

    ``most_tiles`` is the maximum for one image. Raises ``InvalidInputError`` for limits that the tower does not support.
    """
    whole = geometry.unit in (TILES, WHOLE_IMAGES)
    unit = geometry.image_rows if whole else 1
    most = limits.max_image_tokens
    if most is None:
        most = most_tiles * unit if whole else _MAX_TOKENS
    least = min(limits.min_image_tokens or _MIN_TOKENS, most)
    if most < unit:
        raise InvalidInputError(
            f"max_image_tokens {most} is less than the {unit} of one image; give --max-image-tokens {unit} or more"
        )
    if most > limits.max_seq_len and geometry.unit != WHOLE_IMAGES:  # whose rows have no places in the prompt
        if limits.max_image_tokens is None and geometry.unit != TILES:
            most = limits.max_seq_len
        else:
            raise InvalidInputError(
                f"max_image_tokens {most} exceeds max_seq_len {limits.max_seq_len}; raise --max-seq-len, or give a lower "
                "--max-image-tokens"
            )
    step = 1 if geometry.partial_tiles else unit  # of a padded tile only a part
    up = most + -most % step
    return replace(
        limits,
        min_image_tokens=min(least, most),
        max_image_tokens=up if up <= limits.max_seq_len or geometry.unit == WHOLE_IMAGES else most - most % step,
    )


def with_source(limits: Limits, parts: Seq2Seq, *, fit: bool) -> Limits:
    """``limits`` of an encoder-decoder: lengths within the decoder's and the encoder's maximum.

    ``max_source_len`` is that of a text, or the number of places that the model makes of speech or a page. ``fit`` lowers
    ``max_seq_len`` where it exceeds the decoder's. Raises ``InvalidInputError`` for limits beyond the model's.
    """
    name, model = type(parts.model).__name__, parts.model
    most = longest_answer(model)
    if most is not None and limits.max_seq_len > most:
        if not fit:
            raise InvalidInputError(
                f"max_seq_len {limits.max_seq_len} exceeds the {most} tokens that {name}'s decoder was made for; compile with "
                f"--max-seq-len {most} or less"
            )
        limits = replace(limits, max_seq_len=most, max_input_len=min(limits.max_input_len, most))
    given = limits.max_source_len
    if parts.fixed_size is not None:
        places = parts.cross_shape[1]
        if given not in (None, places):
            raise InvalidInputError(f"{name}'s sources have {places} places, always; omit --max-source-len")
        return replace(limits, max_source_len=places)
    longest = longest_source(parts)
    if given is not None and longest is not None and given > longest:
        raise InvalidInputError(
            f"max_source_len {given} exceeds the {longest} tokens that {name}'s encoder was made for; compile with "
            f"--max-source-len {longest} or less"
        )
    if given is not None and given < SHORTEST_SOURCE:
        raise InvalidInputError(f"max_source_len is {given}; give at least {SHORTEST_SOURCE}")
    undivided = _undivided(model)
    if given is not None and undivided is not None and given > undivided:
        raise UnsupportedModelError(
            f"{name}'s encoder divides sources of more than {undivided} tokens into blocks, which no backend has; compile with "
            f"--max-source-len {undivided} or less"
        )
    if parts.image is not None:
        limits = replace(limits, min_image_tokens=parts.image.tokens, max_image_tokens=parts.image.tokens)
        if given is not None and given <= parts.image.tokens:
            raise InvalidInputError(
                f"max_source_len {given} leaves no room for a text after the {parts.image.tokens} places of {name}'s image; "
                "compile with a larger --max-source-len"
            )
    lengths = (length for length in (longest, undivided, _SOURCE_TOKENS) if length is not None)
    return replace(limits, max_source_len=given or min(lengths))


def longest_answer(model: PreTrainedModel) -> int | None:
    """How many tokens the decoder of an encoder-decoder was made for; ``None`` if any number."""
    from tt_edge.compile.seq2seq.image_text import decoder_of

    return _setting(getattr(decoder_of(model), "config", model.config), _TARGET_LIMITS)


def longest_source(parts: Seq2Seq) -> int | None:
    """How many places the encoder was made for; ``None`` if any number."""
    names = (
        _SOURCE_LIMITS if parts.takes_text else _SOURCE_LIMITS[:1]
    )  # of speech, the others are the decoder's (Moonshine)
    longest = _setting(getattr(parts.model.get_encoder(), "config", parts.model.config), names)
    if parts.image is not None and parts.image.instruction is not None:  # the text has other tokens for its image
        longest = min(longest or _SOURCE_TOKENS, parts.image.instruction.most)
    return longest


def _undivided(model: PreTrainedModel) -> int | None:
    """The longest source whose tokens all see each other, in an encoder that divides longer ones into blocks.

    transformers changes BigBird-Pegasus' encoder to whole attention when it sees a short source, but not its configuration.
    """
    config = model.config
    if getattr(config, "attention_type", None) != "block_sparse":
        return None
    return int((5 + 2 * config.num_random_blocks) * config.block_size)


def _setting(config: object, names: tuple[str, ...]) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), None)
