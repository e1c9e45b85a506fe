"""What one operation of a decoder reads, writes and computes, as a function of the step. Torch-free.

The captured network and a ``config.json`` are both described by these functions, so they cost the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tt_edge.compat import StrEnum
from tt_edge.errors import InvalidInputError


class Math(StrEnum):
    """Types in which tensor cores multiply."""

    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"


class Kind(StrEnum):
    """Kinds of operations."""

    LOOKUP = "lookup"
    LINEAR = "linear"
    ATTENTION = "attention"
    CACHE = "cache"
    POINTWISE = "pointwise"


@dataclass(frozen=True)
class Step:
    """One call of a decoder: ``batch`` sequences, each with ``new`` tokens after ``past`` tokens in its KV cache."""

    batch: int
    new: int
    past: int

    def __post_init__(self) -> None:
        for name, value, least in (("batch", self.batch, 1), ("new tokens", self.new, 1), ("past", self.past, 0)):
            if value < least:
                raise InvalidInputError(f"{name} is {value}; give at least {least}")

    @property
    def tokens(self) -> int:
        return self.batch * self.new

    @property
    def cached(self) -> int:
        """Tokens whose keys and values attention reads."""
        return self.batch * (self.past + self.new)

    @property
    def pairs(self) -> float:
        """Pairs of a query and a key that a causal mask leaves."""
        return self.batch * self.new * (self.past + (self.new + 1) / 2)


@dataclass(frozen=True)
class Operation:
    """One kernel. Bytes and floating-point operations are per step, per token, per cached token, or per pair of query and key.

    ``last_token``: it sees only the last token of each sequence.
    """

    name: str
    kind: Kind
    math: Math = Math.FP16
    weight_bytes: float = 0
    token_bytes: float = 0
    token_flops: float = 0
    cached_bytes: float = 0
    pair_flops: float = 0
    last_token: bool = False

    def bytes(self, step: Step) -> float:
        return self.weight_bytes + self.token_bytes * self._tokens(step) + self.cached_bytes * step.cached

    def flops(self, step: Step) -> float:
        return self.token_flops * self._tokens(step) + self.pair_flops * step.pairs

    def _tokens(self, step: Step) -> int:
        return step.batch if self.last_token else step.tokens


def linear(
    name: str,
    inputs: int,
    outputs: int,
    *,
    weight_bytes: float,
    input_bytes: float,
    output_bytes: float,
    math: Math,
    last_token: bool = False,
) -> Operation:
    """``[tokens, inputs] x [inputs, outputs]``.

    ``weight_bytes`` are of the whole matrix with its scales, the other two of one token.
    """
    return Operation(
        name,
        Kind.LINEAR,
        math,
        weight_bytes=weight_bytes,
        token_bytes=input_bytes + output_bytes,
        token_flops=2.0 * inputs * outputs,
        last_token=last_token,
    )


def beside(first: Operation, other: Operation, input_bytes: float) -> Operation:
    """Two linear operations on one input as one kernel, which reads the input's ``input_bytes`` per token once."""
    return replace(
        first,
        name=f"{first.name}+{other.name.rpartition('.')[2]}",
        weight_bytes=first.weight_bytes + other.weight_bytes,
        token_bytes=first.token_bytes + other.token_bytes - input_bytes,
        token_flops=first.token_flops + other.token_flops,
    )


def attention(name: str, heads: int, kv_heads: int, size: int, number_bytes: float, cache_bytes: float) -> Operation:
    """Causal attention: reads queries and the cache, writes as many numbers as it has queries. Sizes are of one number."""
    return Operation(
        name,
        Kind.ATTENTION,
        token_bytes=2 * heads * size * number_bytes,
        cached_bytes=2 * kv_heads * size * cache_bytes,
        pair_flops=4.0 * heads * size,
    )


def cache_update(name: str, kv_heads: int, size: int, number_bytes: float) -> Operation:
    """One of the two tensors, keys or values: reads the new ones and writes them into the cache."""
    return Operation(name, Kind.CACHE, token_bytes=2 * kv_heads * size * number_bytes)


def lookup(name: str, width: int, number_bytes: float) -> Operation:
    """One row of a table per token."""
    return Operation(name, Kind.LOOKUP, token_bytes=2 * width * number_bytes)


def pointwise(name: str, token_bytes: float, last_token: bool = False) -> Operation:
    """Norms, activations, rotations and sums that are one kernel: its inputs are read and its outputs written once."""
    return Operation(name, Kind.POINTWISE, token_bytes=token_bytes, last_token=last_token)
