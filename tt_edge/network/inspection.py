"""The cost of a captured network: parameters, bytes, operations. Computed, not measured. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tt_edge.contract import IOContract
from tt_edge.dtypes import DType
from tt_edge.network.ir import Network


@dataclass(frozen=True)
class DecodeCost:
    """The cost of one decode step of one sequence. The KV cache counts as read up to ``cached_tokens``.

    ``weight_bytes`` counts every stored weight once, except a table from which only one row is gathered.
    """

    weight_bytes: int
    kv_bytes: int
    flops: int
    cached_tokens: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes

    def tokens_per_s(self, bandwidth_gb_s: float) -> float:
        """Upper bound on tokens/s at a memory bandwidth in GB/s, assuming that only memory traffic takes time."""
        return bandwidth_gb_s * 1e9 / self.bytes


def kv_bytes_per_token(contract: IOContract) -> int:
    """Bytes of KV cache per token of one sequence, over all layers."""
    return contract.kv_bytes(1) // contract.max_seq_len


def fixed_tensors(network: Network) -> set[str]:
    """Names of the tensors that depend only on weights, such as a weight that is stored quantized."""
    fixed: set[str] = set()
    for layer in network.layers:
        if layer.kind != "PLUGIN" and all(name in fixed for name in layer.inputs if name is not None):
            fixed.update(layer.outputs)
    return fixed


def decode_cost(network: Network, contract: IOContract, cached_tokens: int | None = None) -> DecodeCost:
    """The cost of one decode step with ``cached_tokens`` in the cache (default: half its capacity)."""
    cached = contract.max_seq_len // 2 if cached_tokens is None else cached_tokens
    constants = {tensor.name: (layer, tensor) for layer, tensor in network.constants()}
    fixed = fixed_tensors(network)
    read: dict[str, int] = {}
    flops = 0
    for layer in network.layers:
        if layer.kind == "MATRIX_MULTIPLY":
            flops += sum(
                2 * math.prod(network.tensors[name].shape)
                for name in layer.inputs
                if name is not None and name in fixed
            )
        for index, name in enumerate(layer.inputs):
            if name not in constants:
                continue
            key = str(constants[name][0].attributes["weights"])
            shape = constants[name][1].shape
            count = math.prod(shape)
            dtype = constants[name][1].dtype
            is_table = (layer.kind == "GATHER" and index == 0) or (layer.kind == "ROTARY_EMBEDDING" and index in (1, 2))
            if is_table and shape:
                count //= max(shape[0], 1)
            read[key] = max(read.get(key, 0), dtype.nbytes(count))
    return DecodeCost(sum(read.values()), kv_bytes_per_token(contract) * cached, flops, cached)


def parameters_by_dtype(network: Network) -> dict[DType, tuple[int, int]]:
    """Stored weights by element type: (number of elements, bytes)."""
    return {dtype: (nbytes * 8 // dtype.bits, nbytes) for dtype, nbytes in network.weight_bytes().items()}
