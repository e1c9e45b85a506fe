"""Applying the rewrite rules to a network."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tt_edge.dtypes import DType
from tt_edge.errors import EngineError
from tt_edge.network.ir import Layer, Network
from tt_edge.network.layers import ATTENTION_INPUTS
from tt_edge.network.legalize.axes_to_shuffle import AxesToShuffle
from tt_edge.network.legalize.cache_through import CacheThrough
from tt_edge.network.legalize.editor import Editor
from tt_edge.network.legalize.form import REPLACEABLE, Form
from tt_edge.network.legalize.lengths_to_mask import LengthsToMask
from tt_edge.network.legalize.plain_attention import PlainAttention
from tt_edge.network.legalize.rotary_arithmetic import RotaryArithmetic
from tt_edge.network.legalize.rule import Rule
from tt_edge.tensorrt_features import (
    ATTENTION,
    ATTENTION_LENGTHS,
    BLOCK_SHAPE,
    CUMULATIVE,
    DYNAMIC_QUANTIZE,
    FP4,
    INDICES_TYPE,
    KV_CACHE_UPDATE,
    NORMALIZATION_V2,
    ROTARY_EMBEDDING,
    SQUEEZE,
    Feature,
    lacking,
)

#: In the order in which they run: a later rule sees the layers made by earlier ones.
RULES: tuple[type[Rule], ...] = (LengthsToMask, PlainAttention, CacheThrough, RotaryArithmetic, AxesToShuffle)

_BY_KIND = {
    "ATTENTION": ATTENTION,
    "KV_CACHE_UPDATE": KV_CACHE_UPDATE,
    "ROTARY_EMBEDDING": ROTARY_EMBEDDING,
    "SQUEEZE": SQUEEZE,
    "UNSQUEEZE": SQUEEZE,
    "CUMULATIVE": CUMULATIVE,
    "DYNAMIC_QUANTIZE": DYNAMIC_QUANTIZE,
}


@dataclass(frozen=True)
class Legalized:
    """A network in one form, and the number of layers that each rule replaced."""

    network: Network
    form: Form
    replaced_layers: dict[str, int]


def needed_features(network: Network) -> dict[Feature, Layer]:
    """The features that TensorRT needs to build ``network`` without rewriting, each with a layer that needs it."""
    needed: dict[Feature, Layer] = {}
    for layer in network.layers:
        for feature in _needs(layer, network):
            needed.setdefault(feature, layer)
    return needed


def _needs(layer: Layer, network: Network) -> Iterator[Feature]:
    attributes = layer.attributes
    if layer.kind in _BY_KIND:
        yield _BY_KIND[layer.kind]
    if layer.kind == "ATTENTION":
        lengths = layer.inputs[ATTENTION_INPUTS.index("query_lengths") :]
        forms = {attributes.get(name, "PADDED_BHND") for name in ("query_form", "key_value_form")}
        if attributes.get("causal_kind", "NONE") != "NONE" or any(lengths) or forms != {"PADDED_BHND"}:
            yield ATTENTION_LENGTHS
    elif layer.kind == "KV_CACHE_UPDATE" and attributes.get("update_form", "PADDED_BHND") != "PADDED_BHND":
        yield ATTENTION_LENGTHS
    elif layer.kind == "NORMALIZATION" and attributes.get("is_v2"):
        yield NORMALIZATION_V2
    elif layer.kind in ("TOPK", "NON_ZERO") and attributes.get("indices_type") == "INT64":
        yield INDICES_TYPE
    elif layer.kind in ("QUANTIZE", "DEQUANTIZE") and attributes.get("block_shape"):
        yield BLOCK_SHAPE
    if any(network.tensors[name].dtype is DType.FP4 for name in layer.outputs):
        yield FP4


def legalize(network: Network, available: Collection[Feature], name: str = "this TensorRT") -> Legalized:
    """``network`` in the newest form that a TensorRT with the features ``available`` can build.

    The captured network is not changed; it is the result if no feature is missing. Raises ``EngineError`` for a layer that
    needs a missing feature and cannot be replaced; the error names the release that has it. ``name`` is the TensorRT's name
    in that error.
    """
    needed = needed_features(network)
    for feature in lacking(needed, available):
        if feature not in REPLACEABLE:
            raise EngineError(
                f"layer {needed[feature].name!r} needs {feature.what}, which {name} lacks and {feature.release} is the first "
                "to have; build with that or a later one, or compile without what the layer is for"
            )
    replaced = frozenset(lacking(needed, available))
    # Key lengths belong to attention layers, so they go with them.
    if ATTENTION in replaced and ATTENTION_LENGTHS in needed:
        replaced |= {ATTENTION_LENGTHS}
    counts: dict[str, int] = {}
    for rule in RULES:
        if rule.feature in replaced:
            network, counts[rule.__name__] = _apply(rule(), network)
    return Legalized(network, Form(replaced), counts)


def _apply(rule: Rule, network: Network) -> tuple[Network, int]:
    editor, count = Editor(network), 0
    for layer in network.layers:
        if rule.rewrite(layer, editor):
            count += 1
        else:
            editor.keep(layer)
    return editor.network(), count


def forms(network: Network, available: Collection[Feature]) -> list[frozenset[Feature]]:
    """Sets of features to try in order until the builder accepts one: all features, then all without attention layers.

    A builder may have attention layers but refuse them for a GPU, a head size or a type.
    """
    everything = frozenset(available)
    attempts = [everything]
    if ATTENTION in everything and any(layer.kind == "ATTENTION" for layer in network.layers):
        attempts.append(everything - {ATTENTION, ATTENTION_LENGTHS})
    return attempts
