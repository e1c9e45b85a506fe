"""A network in float32: what its half-precision original would compute without rounding. Torch-free.

Integer, FP8 and 4-bit types stay, and with them what quantization does to the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tt_edge.dtypes import DType
from tt_edge.network.ir import Attribute, Layer, Network, Tensor

_HALVES = (DType.FLOAT16, DType.BFLOAT16)
#: Names of half-precision types in attributes, and of the type that takes their place.
_NAMES = {"HALF": "FLOAT", "BF16": "FLOAT", "float16": "float32", "bfloat16": "float32"}


class _Wide(Mapping[str, np.ndarray]):
    """Weights, those in half precision converted when they are asked for."""

    def __init__(self, weights: Mapping[str, np.ndarray], halves: Mapping[str, DType]) -> None:
        self._weights, self._halves = weights, halves

    def __getitem__(self, key: str) -> np.ndarray:
        array, dtype = self._weights[key], self._halves.get(key)
        return array if dtype is None else array.reshape(-1).view(dtype.numpy).reshape(array.shape).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def widened(network: Network) -> Network:
    """``network`` with float32 in place of float16 and bfloat16, weights included. Inputs are float32 then, too."""
    tensors = {name: _tensor(tensor) for name, tensor in network.tensors.items()}
    halves: dict[str, DType] = {}
    for layer in network.layers:
        dtype = network.tensors[layer.outputs[0]].dtype
        if dtype in _HALVES:
            halves |= {
                key: dtype for key in layer.attributes.values() if isinstance(key, str) and key in network.weights
            }
    layers = [
        Layer(x.name, x.kind, x.inputs, x.outputs, {key: _attribute(value) for key, value in x.attributes.items()})
        for x in network.layers
    ]
    return Network(network.name, network.inputs, network.outputs, tensors, layers, _Wide(network.weights, halves))


def widened_feeds(network: Network, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of ``feeds`` of ``network``, for ``widened(network)``."""
    return {
        name: array.astype(np.float32) if network.tensors[name].dtype in _HALVES else array.copy()
        for name, array in feeds.items()
    }


def _tensor(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, DType.FLOAT32, tensor.shape) if tensor.dtype in _HALVES else tensor


def _attribute(value: Attribute) -> Attribute:
    return _NAMES.get(value, value) if isinstance(value, str) else value
