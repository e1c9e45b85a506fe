"""The base class and helpers of the format readers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from tt_edge.compile.quantize.quantized_weight import QuantizedWeight, WeightFormat
from tt_edge.errors import InvalidInputError, UnsupportedModelError
from tt_edge.plugins.ops.number_formats import pack_nibbles, unpack_nibbles


class LinearReader(ABC):
    """Reads the linear layers of one checkpoint format.

    Its constructor takes the checkpoint's quantization settings and raises ``UnsupportedModelError`` for unsupported ones.
    """

    #: Names of the tensors that a quantized layer may have, besides its bias.
    tensors: ClassVar[frozenset[str]]

    @abstractmethod
    def read(self, layer: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        """The weight of the module ``layer``. ``tensors`` are its tensors, keyed by the last part of their names.

        Raises ``UnsupportedModelError`` or ``InvalidInputError``; the caller adds the layer's name to the message.
        """


def integer_weight(
    bits: int, codes: Tensor, zero_points: Tensor, scale: Tensor, permutation: Tensor | None = None
) -> QuantizedWeight:
    """The weight with elements exactly ``(code - zero_point) * scale``: INT4 if possible, otherwise INT8.

    ``codes`` uint8: ``[N, K]`` for 8 bits, ``[N, K/2]`` nibbles for 4 bits. ``zero_points`` integers and
    ``scale`` are ``[N, K/group]``. With a ``permutation`` (``QuantizedWeight.permutation``), ``codes`` are in the model's
    column order, and the result is in the order of the groups.
    """
    per_byte = 8 // bits
    n, groups = scale.shape
    if zero_points.shape != scale.shape or codes.shape[0] != n or codes.shape[1] * per_byte % groups:
        raise InvalidInputError(
            f"weight {codes.shape[0]} x {codes.shape[1] * per_byte}, scales {list(scale.shape)} and zero points "
            f"{list(zero_points.shape)} do not fit together; download the checkpoint again"
        )
    if bits == 8 or (zero_points != 8).any():
        values = _signed_bytes(bits, codes, zero_points, permutation)
        return QuantizedWeight(
            WeightFormat.INT8, values, scale if groups > 1 else scale.flatten(), permutation=permutation
        )
    if permutation is not None:
        codes = pack_nibbles(_gathered(unpack_nibbles(codes), permutation))
    # Flipping a code's highest bit subtracts 8, in two's complement.
    return QuantizedWeight(WeightFormat.INT4, codes ^ 0x88, scale, permutation=permutation)


def _signed_bytes(bits: int, codes: Tensor, zero_points: Tensor, permutation: Tensor | None) -> Tensor:
    """``code - zero_point`` ``[N, K]`` int8."""
    if bits == 4:
        codes = unpack_nibbles(codes)
    if permutation is not None:
        codes = _gathered(codes, permutation)
    groups = codes.reshape(*zero_points.shape, -1)
    if bits == 4:
        return groups.view(torch.int8).sub_(zero_points[..., None].to(torch.int8)).flatten(1)
    wide = groups.to(torch.int16) - zero_points[..., None].to(torch.int16)
    if wide.min() < -128 or wide.max() > 127:
        raise UnsupportedModelError(
            "its 8-bit zero points take values beyond INT8, and TensorRT has no zero points; "
            "use a checkpoint quantized symmetrically"
        )
    return wide.to(torch.int8).flatten(1)


def word_bytes(words: Tensor) -> Tensor:
    """The bytes ``[R, 4C]`` of ``[R, C]`` int32 words, the lowest first. Raises like ``int32``."""
    return int32(words).contiguous().view(torch.uint8)


def _gathered(codes: Tensor, columns: Tensor) -> Tensor:
    return codes.gather(1, columns.expand(codes.shape[0], -1))  # index_select takes several times as long


def int32(words: Tensor) -> Tensor:
    """Return ``words`` ``[R, C]``. Raises ``UnsupportedModelError`` unless they are int32."""
    if words.ndim != 2 or words.dtype != torch.int32:
        raise UnsupportedModelError(
            f"values packed in {list(words.shape)} {str(words.dtype).removeprefix('torch.')} are not read; "
            "use a checkpoint that packs them in int32"
        )
    return words


def check_group_size(group_size: int | None) -> None:
    """Raise ``UnsupportedModelError`` for 4-bit weights with one scale per row."""
    if group_size is None or group_size <= 0:
        raise UnsupportedModelError(
            f"4-bit weights with group_size {group_size}, one scale for a whole row, are not read, because TensorRT's INT4 has "
            "blocks; use a checkpoint with group_size 128"
        )


def check_groups(in_features: int, groups: int, group_size: int) -> None:
    """Raise ``UnsupportedModelError`` unless ``groups`` groups of ``group_size`` columns are ``in_features`` columns."""
    if groups * group_size != in_features:
        raise UnsupportedModelError(
            f"its {in_features} input features are not {groups} groups of group_size {group_size}; "
            "use a checkpoint whose group_size divides them"
        )


def group_order(group_of: Tensor, in_features: int, groups: int) -> Tensor | None:
    """The columns ``[K]`` int64 sorted by group, from the group ``[K]`` of each; ``None`` if they are in order.

    Raises ``UnsupportedModelError`` for groups of different sizes, ``InvalidInputError`` for group numbers out of range.
    """
    group_of = group_of.long()
    if tuple(group_of.shape) != (in_features,) or group_of.min() < 0 or group_of.max() >= groups:
        raise InvalidInputError(
            f"its g_idx {list(group_of.shape)} does not put {in_features} input features into {groups} groups; "
            "download the checkpoint again"
        )
    sizes = torch.bincount(group_of, minlength=groups)
    if (sizes != sizes[0]).any():
        raise UnsupportedModelError(
            f"its {in_features} input features are in groups of {int(sizes.min())} to {int(sizes.max())}; "
            "use a checkpoint whose group_size divides them"
        )
    if (group_of[1:] >= group_of[:-1]).all():
        return None
    return torch.argsort(group_of, stable=True)
