"""Where one row's keys and values lie in a KV cache, so that they can be copied out, and in again elsewhere."""

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
    """The tokens of one row in one cache tensor: ``runs`` times, ``pitch`` bytes apart, they stand one after another."""

    offset: int
    runs: int
    pitch: int
    token_bytes: int

    def view(self, cache: np.ndarray, length: int) -> Bytes:
        """The first ``length`` tokens in a contiguous host array, without a copy: ``[runs, length, token_bytes]``.

        Raises ``CapacityError`` where they do not all lie in the array.
        """
        flat = cache.reshape(-1).view(np.uint8)[self.offset :]
        end = (self.runs - 1) * self.pitch + length * self.token_bytes
        if length * self.token_bytes > self.pitch or end > flat.nbytes:
            raise CapacityError(f"{length} tokens reach beyond the KV cache; compile the model again")
        return np.lib.stride_tricks.as_strided(
            flat, (self.runs, length, self.token_bytes), (self.pitch, self.token_bytes, 1)
        )


def region(spec: TensorSpec, contract: IOContract, row: int) -> Region:
    """The place of ``row`` in the cache tensor ``spec``.

    A cache is ``[batch, …, capacity, head_dim]``, or a pool of pages ``[2, pages, tokens, kv_heads, head_dim]`` in
    which a row's pages follow one another (``kv_page_table`` in ``tt_edge.contract.inputs``).
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
    """Tokens, and their keys and values: by cache tensor, bytes ``[runs, tokens, token_bytes]`` in host memory."""

    token_ids: tuple[int, ...]
    tensors: Mapping[str, Bytes]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.tensors.values())

    def first(self, length: int) -> KVPrefix:
        """The first ``length`` tokens; shares memory with this one."""
        return KVPrefix(self.token_ids[:length], {name: data[:, :length] for name, data in self.tensors.items()})
