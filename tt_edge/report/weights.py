"""Bytes of a bundle's weights by block of the model and type, and its memory by length and batch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import DECODER
from tt_edge.dtypes import DType
from tt_edge.network.inspection import kv_bytes_per_token
from tt_edge.network.ir import Network

_BLOCK = re.compile(r"(?:layers|blocks?|layer|h)[._](\d+)")
_NAMED = {"embed": "embeddings", "lm_head": "head", "rotary": "rotary tables", "merger": "merger", "norm": "last norm"}


@dataclass(frozen=True)
class BlockBytes:
    """The weights of one block, such as ``block 3``, ``embeddings`` or ``vision block 0``."""

    name: str
    by_type: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_type.values())


def bytes_by_block(bundle: Bundle) -> list[BlockBytes]:
    """By part: embeddings, blocks, the rest. Each stored weight is counted once, where it is used first."""
    found: dict[str, dict[str, int]] = {}
    for part in sorted(bundle.manifest.parts, key=lambda name: name != DECODER):
        prefix = "" if part == DECODER else f"{part} "
        weights = [(_block_of(name), dtype, nbytes) for name, dtype, nbytes in _weights(bundle.network(part))]
        for block, dtype, nbytes in sorted(weights, key=lambda each: _place(each[0])):
            own = found.setdefault(prefix + block, {})
            own[str(dtype)] = own.get(str(dtype), 0) + nbytes
    return [BlockBytes(name, by_type) for name, by_type in found.items()]


def _weights(network: Network) -> list[tuple[str, DType, int]]:
    seen: dict[str, tuple[str, DType, int]] = {}
    for layer, tensor in network.constants():
        count = int(np.prod(tensor.shape, dtype=np.int64))
        seen.setdefault(str(layer.attributes["weights"]), (layer.name, tensor.dtype, tensor.dtype.nbytes(count)))
    for layer in network.layers:  # such as a convolution's kernel and bias
        for key in layer.attributes.values():
            if layer.kind != "CONSTANT" and isinstance(key, str) and key in network.weights:
                array = network.weights[key]
                seen.setdefault(key, (layer.name, DType.of(array), array.nbytes))
    return list(seen.values())


def _block_of(name: str) -> str:
    blocks = _BLOCK.findall(name)
    if blocks:
        return f"block {blocks[-1]}"
    return next((label for part, label in _NAMED.items() if part in name), "other")


def _place(block: str) -> tuple[int, int]:
    number = block.removeprefix("block ")
    if number.isdecimal():
        return 1, int(number)
    return (0, 0) if block == "embeddings" else (2, [*_NAMED.values(), "other"].index(block))


@dataclass(frozen=True)
class MemoryLine:
    """Bytes of weights and KV cache by capacity in tokens, for one batch."""

    batch: int
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]


def memory_lines(bundle: Bundle) -> list[MemoryLine]:
    """For batches of powers of two up to the bundle's, or 8, and capacities up to the bundle's, or 8,192.

    Computed: what a bundle compiled for these limits would hold. Activations and TensorRT's own memory are not in it.
    """
    contract = bundle.manifest.contract
    weights = sum(block.total for block in bytes_by_block(bundle))
    each, longest = kv_bytes_per_token(contract), max(contract.max_seq_len, 8192)
    tokens = _doubling(256, longest)
    return [
        MemoryLine(batch, tuple(tokens), tuple(weights + batch * each * count for count in tokens))
        for batch in _doubling(1, max(contract.max_batch, 8))
    ]


def _doubling(first: int, last: int) -> Sequence[int]:
    found = [first]
    while found[-1] < last:
        found.append(min(2 * found[-1], last))
    return found
