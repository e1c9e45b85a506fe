"""The location of one slot's keys and values in a KV cache, for copying them out and into another slot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tt_edge.contract import BATCH, IOContract, TensorSpec
from tt_edge.errors import CapacityError

Bytes = NDArray[np.uint8]


class Region(NamedTuple):
    """The tokens of one slot in one cache tensor: ``runs`` contiguous sequences of tokens, ``pitch`` bytes apart."""

    offset: int
    runs: int
    pitch: int
    token_bytes: int

    def view(self, cache: np.ndarray, length: int) -> Bytes:
        """The first ``length`` tokens in a contiguous host array, without a copy: ``[runs, length, token_bytes]``.

        Raises ``CapacityError`` if they are not all within the array.
        """
        flat = cache.reshape(-1).view(np.uint8)[self.offset :]
        end = (self.runs - 1) * self.pitch + length * self.token_bytes
        if length * self.token_bytes > self.pitch or end > flat.nbytes:
            raise CapacityError(f"{length} tokens reach beyond the KV cache; compile the model again")
        return np.lib.stride_tricks.as_strided(
            flat, (self.runs, length, self.token_bytes), (self.pitch, self.token_bytes, 1)
        )


def region(spec: TensorSpec, contract: IOContract, row: int) -> Region:
    """The region of the slot ``row`` in the cache tensor ``spec``.

    A cache is ``[batch, …, capacity, head_dim]``, or a pool of pages ``[2, pages, tokens, kv_heads, head_dim]`` in
    which a slot's pages are consecutive (``kv_page_table`` in ``tt_edge.contract.inputs``).
    """
    shape = spec.resolve(batch=contract.max_batch)
    if spec.shape[0] == BATCH:
        token, runs = spec.dtype.nbytes(shape[-1]), math.prod(shape[1:-2])
        pitch = shape[-2] * token
        return Region(row * runs * pitch, runs, pitch, token)
    halves, pages, page_tokens = shape[:3]
    token = spec.dtype.nbytes(math.prod(shape[3:]))
    return Region(row * pages // contract.max_batch * page_tokens * token, halves, pages * page_tokens * token, token)


@dataclass(frozen=True, eq=False)
class KVPrefix:
    """Tokens with their keys and values: bytes ``[runs, tokens, token_bytes]`` in host memory, by cache tensor."""

    token_ids: tuple[int, ...]
    tensors: Mapping[str, Bytes]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.tensors.values())

    def first(self, length: int) -> KVPrefix:
        """The first ``length`` tokens; shares memory with this one."""
        return KVPrefix(self.token_ids[:length], {name: data[:, :length] for name, data in self.tensors.items()})
