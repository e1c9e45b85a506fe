"""Simplifying a captured network: fewer layers, identical results. Torch-free.

Converters work one operator at a time, so their output has redundant layers: the same constant once for every layer that
reads it, a reshape after a constant that could have that shape itself. Each rewrite here keeps every value bit for bit;
none reorders arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tt_edge.network.ir import Layer, Network

#: Layers that write to memory; two of them are never merged.
_EFFECTS = frozenset({"KV_CACHE_UPDATE", "PLUGIN_V2", "PLUGIN_V3", "ASSERTION"})


@dataclass(frozen=True)
class Simplified:
    """The number of layers that ``simplify`` removed, by rewrite."""

    reshaped_constants: int
    identities: int
    duplicates: int
    unused: int


def simplify(network: Network) -> Simplified:
    """Simplify ``network`` in place; its inputs, outputs and weight values do not change."""
    reshaped = _reshape_constants(network)
    identities = _drop_identities(network)
    duplicates = _merge_duplicates(network)
    unused = _drop_unused(network)
    return Simplified(reshaped, identities, duplicates, unused)


def _reshape_constants(network: Network) -> int:
    """Replace a ``CONSTANT`` and a ``SHUFFLE`` that only reshapes it by one ``CONSTANT`` of the new shape over the same data."""
    made_by = {name: layer for layer in network.layers for name in layer.outputs}
    taken: set[str] = set()
    count = 0
    for position, layer in enumerate(network.layers):
        source = made_by.get(layer.inputs[0] or "") if layer.kind == "SHUFFLE" else None
        if source is None or source.kind != "CONSTANT" or len(layer.inputs) > 1:
            continue
        shape = network.tensors[layer.outputs[0]].shape
        if -1 in shape or not _keeps_order(layer, network.tensors[source.outputs[0]].shape):
            continue
        attributes = {**source.attributes, "shape": list(shape)}
        # It takes the constant's name, which is the weight's, unless a constant with another shape of that weight has it.
        name = layer.name if source.name in taken else source.name
        taken.add(name)
        source.name = layer.name
        constant = Layer(name, "CONSTANT", [], layer.outputs, attributes)
        network.layers[position] = constant
        made_by[layer.outputs[0]] = constant
        count += 1
    return count


def _keeps_order(shuffle: Layer, shape: Sequence[int]) -> bool:
    """Whether neither permutation moves a dimension of more than one element."""
    return all(
        _is_trivial(shuffle.attributes.get(name), sizes)
        for name, sizes in (("first_transpose", shape), ("second_transpose", None))
    )


def _is_trivial(order: object, shape: Sequence[int] | None) -> bool:
    if not isinstance(order, list):
        return True
    moved = [d for d in order if shape is None or (d < len(shape) and shape[d] != 1)]
    return moved == sorted(moved)


def _drop_identities(network: Network) -> int:
    """Remove casts to the type that the input already has, and shuffles that move nothing."""
    return _substitute(network, lambda layer: layer.inputs[0] if _is_identity(network, layer) else None)


def _is_identity(network: Network, layer: Layer) -> bool:
    if layer.kind not in ("CAST", "IDENTITY", "SHUFFLE") or len(layer.inputs) != 1 or layer.inputs[0] is None:
        return False
    source, result = network.tensors[layer.inputs[0]], network.tensors[layer.outputs[0]]
    if source.dtype != result.dtype:
        return False
    if layer.kind != "SHUFFLE":
        return True
    static = sum(d == -1 for d in source.shape) <= 1
    return static and source.shape == result.shape and _keeps_order(layer, source.shape)


def _merge_duplicates(network: Network) -> int:
    """Merge layers of one kind with equal inputs and attributes into the first of them."""
    first: dict[str, str] = {}

    def twin(layer: Layer) -> str | None:
        is_random = str(layer.attributes.get("operation")).startswith("RANDOM")
        if layer.kind in _EFFECTS or is_random or len(layer.outputs) != 1:
            return None
        dtype = network.tensors[layer.outputs[0]].dtype
        key = json.dumps([layer.kind, layer.inputs, layer.attributes, dtype], sort_keys=True)
        original = first.setdefault(key, layer.outputs[0])
        return None if original == layer.outputs[0] else original

    return _substitute(network, twin)


def _substitute(network: Network, equivalent: Callable[[Layer], str | None]) -> int:
    """Drop each layer for which ``equivalent`` returns a tensor to use instead of its output; network outputs stay."""
    renamed: dict[str, str] = {}
    outputs = set(network.outputs)
    kept = []
    for layer in network.layers:
        layer = replace(layer, inputs=[renamed.get(name, name) if name else None for name in layer.inputs])
        other = None if outputs.intersection(layer.outputs) else equivalent(layer)
        if other is None:
            kept.append(layer)
        else:
            renamed[layer.outputs[0]] = other
            del network.tensors[layer.outputs[0]]
    dropped = len(network.layers) - len(kept)
    network.layers[:] = kept
    return dropped


def _drop_unused(network: Network) -> int:
    """Remove layers that no network output depends on, with their tensors and weights."""
    used = set(network.outputs)
    kept: list[Layer] = []
    for layer in reversed(network.layers):
        if used.isdisjoint(layer.outputs):
            for name in layer.outputs:
                del network.tensors[name]
            continue
        used.update(name for name in layer.inputs if name)
        kept.append(layer)
    dropped = len(network.layers) - len(kept)
    network.layers[:] = reversed(kept)
    keys = {value for layer in network for value in layer.attributes.values() if isinstance(value, str)}
    network.weights = {key: value for key, value in network.weights.items() if key in keys}
    return dropped
