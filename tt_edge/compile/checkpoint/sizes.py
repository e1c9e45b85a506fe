"""Numbers of ``config.json`` that sizes are made of, checked by name before transformers computes with them.

transformers checks types only. A number below 1 would end in an error about a tensor or a division that names no setting, or in a
model without layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tt_edge.errors import InvalidInputError

#: Settings that are divided by, or that tensors have as a size, in every part of a configuration.
_POSITIVE = frozenset({
    "d_kv", "d_model", "decoder_attention_heads", "encoder_attention_heads", "hidden_size", "image_size", "num_attention_heads",
    "num_heads", "num_mel_bins", "patch_size", "relative_attention_max_distance", "relative_attention_num_buckets",
})  # fmt: skip
#: Settings that some part may have as 0, where it has none of them.
_NOT_NEGATIVE = frozenset({
    "d_ff", "decoder_ffn_dim", "decoder_layers", "encoder_ffn_dim", "encoder_layers", "head_dim", "intermediate_size",
    "max_position_embeddings", "max_source_positions", "max_target_positions", "num_channels", "num_decoder_layers",
    "num_hidden_layers", "num_key_value_heads", "num_layers", "vocab_size",
})  # fmt: skip
#: The most pixels of a side of an image: a mask of windows is made of all of them.
_MOST = 16384
#: Settings that are token ids where there is a vision tower.
_TOKENS = frozenset({"image_token_id", "image_token_index", "video_token_id"})


def check_sizes(source: str, settings: Mapping[str, Any]) -> None:
    """Raise ``InvalidInputError`` for a size that no model has, and a negative token id of images."""
    for path, value in leaves(settings):
        name = path.rpartition(".")[2]
        numbers = [each for each in (value if isinstance(value, list) else [value]) if type(each) in (int, float)]
        if name in _POSITIVE and any(each < 1 for each in numbers):
            raise _wrong(source, path, value, "at least 1")
        if name in _NOT_NEGATIVE and any(each < 0 for each in numbers):
            raise _wrong(source, path, value, "a number of 0 or more")
        if name == "image_size" and (
            any(each > _MOST for each in numbers) or (isinstance(value, list) and len(value) < 2)
        ):
            raise _wrong(source, path, value, f"an integer from 1 to {_MOST}, or height and width")
        if name in _TOKENS and "vision_config" in settings and any(each < 0 for each in numbers):
            raise _wrong(source, path, value, "a token id")


def check_tokens(source: str, settings: Mapping[str, Any]) -> None:
    """Raise ``InvalidInputError`` for what is no token id, nor a list of them, in ``generation_config.json``. (-1 is none.)"""
    for name in ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"):
        value = settings.get(name)
        found = value if isinstance(value, list) and value else [value]
        if value is not None and not all(type(each) is int for each in found):
            raise _wrong(source, name, value, "a token id", file="generation_config.json")


def leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested objects, by names such as ``encoder.image_size``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _wrong(source: str, name: str, value: Any, wanted: str, file: str = "config.json") -> InvalidInputError:
    return InvalidInputError(
        f"checkpoint {source}: {name} of {file} is {value!r:.80}, not {wanted}; correct it, or download the checkpoint again"
    )
