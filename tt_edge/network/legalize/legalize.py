"""Applying the rewrite rules to a network, and naming the resulting form."""

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

#: The features that a rule replaces.
REPLACEABLE: frozenset[Feature] = frozenset(rule.feature for rule in RULES)

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
class Form:
    """The form that a network is built in: as captured, except for the features that are ``replaced``."""

    replaced: frozenset[Feature] = frozenset()

    @property
    def in_place(self) -> bool:
        """Whether the KV cache is updated in place, or passes through the network."""
        return KV_CACHE_UPDATE not in self.replaced

    @property
    def attention(self) -> str:
        """The layers that compute attention, as text."""
        if ATTENTION in self.replaced:
            return "matrix multiplies and a softmax"
        return "attention layers with a mask" if ATTENTION_LENGTHS in self.replaced else "attention layers"

    @property
    def name(self) -> str:
        """Names of the features that are replaced, the oldest first; ``captured`` if none is."""
        return "+".join(f"no_{feature.name}" for feature in lacking(self.replaced, ())) or "captured"

    def __str__(self) -> str:
        if not self.replaced:
            return "as captured"
        parts = [self.attention] if self.replaced & {ATTENTION, ATTENTION_LENGTHS} else []
        parts += ["a KV cache that goes through the network"] * (not self.in_place)
        parts += ["rotary embedding as arithmetic"] * (ROTARY_EMBEDDING in self.replaced)
        return ", ".join(parts) or "squeezes as shuffles"

    @classmethod
    def parse(cls, name: str) -> Form:
        """The form with ``name``. Raises ``ValueError`` for an unknown name."""
        if name == "captured":
            return cls()
        by_name = {f"no_{feature.name}": feature for feature in REPLACEABLE}
        if unknown := [part for part in name.split("+") if part not in by_name]:
            raise ValueError(f"{unknown[0]!r} is no part of a network's form")
        return cls(frozenset(by_name[part] for part in name.split("+")))


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
