"""The features of a TensorRT package that tt-edge depends on, detected from its bindings, not its version. Torch-free.

Each feature names the first release that has it. The tests check the releases against the real bindings of eight of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

Release = tuple[int, int]


@dataclass(frozen=True)
class Feature:
    """A feature that a TensorRT package may have. ``since`` is the first release with it."""

    name: str
    what: str
    since: Release
    is_in: Callable[[Any], bool]

    @property
    def release(self) -> str:
        """Such as ``TensorRT 10.14``."""
        return f"TensorRT {self.since[0]}.{self.since[1]}"

    def __repr__(self) -> str:
        return f"Feature({self.name})"


def _call(name: str) -> Callable[[Any], bool]:
    return lambda trt: hasattr(getattr(trt, "INetworkDefinition", None), name)


def _member(owner: str, name: str) -> Callable[[Any], bool]:
    return lambda trt: hasattr(getattr(trt, owner, None), name)


SQUEEZE = Feature("squeeze", "squeeze and unsqueeze layers", (10, 7), _call("add_unsqueeze"))
FP4 = Feature("fp4", "the element type FP4", (10, 8), _member("DataType", "FP4"))
CUMULATIVE = Feature("cumulative", "cumulative layers", (10, 8), _call("add_cumulative"))
DYNAMIC_QUANTIZE = Feature("dynamic_quantize", "dynamic quantization", (10, 8), _call("add_dynamic_quantize"))
STREAM_WRITER = Feature(
    "stream_writer",
    "engines written while they are built",
    (10, 13),
    _member("Builder", "build_serialized_network_to_stream"),
)
ATTENTION = Feature("attention", "attention layers", (10, 14), _call("add_attention"))
INDICES_TYPE = Feature("indices_type", "64-bit indices of top-k", (10, 14), _member("ITopKLayer", "indices_type"))
KV_CACHE_UPDATE = Feature("kv_cache_update", "KV caches updated in place", (10, 15), _call("add_kv_cache_update"))
ROTARY_EMBEDDING = Feature("rotary_embedding", "rotary embedding layers", (10, 15), _call("add_rotary_embedding"))
NORMALIZATION_V2 = Feature(
    "normalization_v2", "normalization layers, second kind", (10, 15), _call("add_normalization_v2")
)
BLOCK_SHAPE = Feature(
    "block_shape", "block shapes of quantization", (10, 15), _member("IDequantizeLayer", "block_shape")
)
ATTENTION_LENGTHS = Feature(
    "attention_lengths",
    "attention with key lengths and a choice of the causal diagonal",
    (11, 0),
    _member("IAttention", "key_value_lengths"),
)

FEATURES: tuple[Feature, ...] = (
    SQUEEZE,
    FP4,
    CUMULATIVE,
    DYNAMIC_QUANTIZE,
    STREAM_WRITER,
    ATTENTION,
    INDICES_TYPE,
    KV_CACHE_UPDATE,
    ROTARY_EMBEDDING,
    NORMALIZATION_V2,
    BLOCK_SHAPE,
    ATTENTION_LENGTHS,
)


def features_of(trt: Any) -> frozenset[Feature]:
    """The features of a TensorRT package."""
    return frozenset(feature for feature in FEATURES if feature.is_in(trt))


@cache
def features_of_release(version: str) -> frozenset[Feature]:
    """The features of standard TensorRT ``version``, such as ``10.13.3``, for packages that are not installed here."""
    return frozenset(feature for feature in FEATURES if release_of(version) >= feature.since)


def release_of(version: str) -> Release:
    """``(10, 13)`` of ``10.13.3``."""
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers else (0, 0)


def lacking(needed: Collection[Feature], available: Collection[Feature]) -> list[Feature]:
    """The features of ``needed`` that are not ``available``, the oldest first."""
    return sorted(set(needed) - set(available), key=lambda feature: (feature.since, feature.name))
