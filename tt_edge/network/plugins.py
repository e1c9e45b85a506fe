"""Plugin layers of a network. Torch-free.

A captured plugin layer has kind ``PLUGIN_V2`` or ``PLUGIN_V3`` and these attributes: ``plugin``, ``version`` and
``namespace``, by which TensorRT's registry finds the creator; ``generation``, the contract that the creator must have; and
the creator's fields, each under its type and name: ``INT32.num_q_heads``.

During conversion the network has no plugin layers: TensorRT-RTX does not support them, and standard TensorRT would need the
plugin library. Instead ``record`` adds stand-in network inputs for the plugin's outputs and records the layer separately;
``capture`` then replaces the stand-ins by the layer. Each stand-in goes through an identity layer, because a network input
cannot also be a network output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from tt_edge.errors import CaptureError, EngineError
from tt_edge.network.ir import Attribute, Layer
from tt_edge.plugins.edgellm import contracts
from tt_edge.plugins.edgellm.contracts import FieldType
from tt_edge.plugins.edgellm.library import check_fields, contract_of

KINDS = ("PLUGIN_V2", "PLUGIN_V3")

#: Maximum number of values of a field; the contracts' lists have about ten.
_MAX_FIELD = 1 << 16
_NUMPY = {FieldType.INT32: np.int32, FieldType.FLOAT32: np.float32, FieldType.CHAR: np.int8}


@dataclass(frozen=True)
class RecordedPlugin:
    """A plugin layer recorded during conversion: its tensors are TensorRT's, whose names may still change."""

    layer: Layer  # without inputs and outputs
    inputs: tuple[Any, ...]
    stand_ins: tuple[Any, ...]
    outputs: tuple[Any, ...]


_RECORDING: ContextVar[list[RecordedPlugin] | None] = ContextVar("recording", default=None)


@contextmanager
def recording() -> Iterator[list[RecordedPlugin]]:
    """Collect the plugin layers that converters record inside the block."""
    plugins: list[RecordedPlugin] = []
    token = _RECORDING.set(plugins)
    try:
        yield plugins
    finally:
        _RECORDING.reset(token)


def record(
    network: Any, layer: Layer, inputs: Sequence[Any], outputs: Sequence[tuple[Any, tuple[int, ...]]]
) -> list[Any]:
    """Record a plugin layer with TensorRT tensors as inputs; returns the stand-in tensors for its outputs.

    ``outputs`` gives the TensorRT element type and shape (-1: dynamic) of each.
    """
    plugins = _RECORDING.get()
    if plugins is None:
        raise CaptureError(f"plugin layer {layer.name!r} is converted outside of a recording; please report this")
    stand_ins, results = [], []
    for index, (dtype, shape) in enumerate(outputs):
        stand_in = network.add_input(f"{layer.name} stand-in {index}", dtype, shape)
        identity = network.add_identity(stand_in)
        identity.name = f"{layer.name} result {index}"
        stand_ins.append(stand_in)
        results.append(identity.get_output(0))
    plugins.append(RecordedPlugin(layer, tuple(inputs), tuple(stand_ins), tuple(results)))
    return results


def plugin_attributes(
    plugin: str, version: str, namespace: str, generation: str, fields: Mapping[str, tuple[FieldType, Any]]
) -> dict[str, Attribute]:
    """A captured layer's attributes."""
    attributes: dict[str, Attribute] = {
        "plugin": plugin,
        "version": version,
        "namespace": namespace,
        "generation": generation,
    }
    for name, (type_, value) in fields.items():
        attributes[f"{type_}.{name}"] = list(value) if isinstance(value, tuple) else value
    return attributes


def is_field(name: str, value: object) -> bool:
    """Whether an attribute such as ``INT32.num_q_heads`` has a valid value for a creator's field of its type."""
    limits = {FieldType.INT32: 2**31, FieldType.FLOAT32: 2**127, FieldType.CHAR: 128}
    type_ = name.partition(".")[0]
    if type_ not in FieldType.__members__:
        return False
    kinds = (int, float) if type_ == FieldType.FLOAT32 else (int,)
    values, most = value if isinstance(value, list) else [value], limits[FieldType(type_)]
    return len(values) <= _MAX_FIELD and all(
        isinstance(v, kinds) and not isinstance(v, bool) and -most <= v < most for v in values
    )


def plugin_fields(layer: Layer) -> dict[str, tuple[FieldType, np.ndarray]]:
    """The creator's fields as they were captured: by name, type and value."""
    fields = {}
    for key, value in layer.attributes.items():
        prefix, _, name = key.partition(".")
        if prefix in FieldType.__members__:
            type_ = FieldType(prefix)
            fields[name] = (type_, np.atleast_1d(np.array(value, _NUMPY[type_])))
    return fields


def add_plugin(trt: Any, network: Any, layer: Layer, inputs: list[Any]) -> Any:
    """Add a captured plugin layer to a standard TensorRT network, from the creator in TensorRT's registry.

    Raises ``EngineError`` if TensorRT has no plugins, the registry has no such creator, or the creator another contract.
    """
    name, version, namespace = (str(layer.attributes[key]) for key in ("plugin", "version", "namespace"))
    add = "add_plugin_v2" if layer.kind == "PLUGIN_V2" else "add_plugin_v3"
    if not hasattr(network, add):
        raise EngineError(
            f"layer {layer.name!r} is the plugin {name}, for which TensorRT {trt.__version__} has no {add}; build the bundle "
            "where standard TensorRT and the plugin library are installed, or compile with --backend native"
        )
    registry = trt.get_plugin_registry()
    creator = registry.get_creator(name, version, namespace)
    if creator is None:
        raise EngineError(
            f"no plugin {name} (version {version}) is registered with TensorRT; give its library with --plugin-path, "
            f"or {'run `tt-edge plugin build`' if namespace else 'pip install tensorrt-edgellm'}"
        )
    _check_contract(creator, layer)
    fields = plugin_fields(layer)
    collection = trt.PluginFieldCollection(
        [trt.PluginField(field, value, getattr(trt.PluginFieldType, type_)) for field, (type_, value) in fields.items()]
    )
    if layer.kind == "PLUGIN_V2":
        plugin = creator.create_plugin(layer.name, collection)
    else:
        plugin = creator.create_plugin(layer.name, collection, trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise EngineError(f"plugin {name} refuses the fields of layer {layer.name!r}; its log says why")
    return (
        network.add_plugin_v2(inputs, plugin)
        if layer.kind == "PLUGIN_V2"
        else network.add_plugin_v3(inputs, [], plugin)
    )


def _check_contract(creator: Any, layer: Layer) -> None:
    name = str(layer.attributes["plugin"])
    if name not in (contracts.NAME, contracts.OWN_NAME):  # other plugins have one contract in all generations
        check_fields(creator, name)
        return
    found, wanted = contract_of(creator), str(layer.attributes["generation"])
    if found.version != wanted:
        raise EngineError(
            f"the registered {name} is of generation {found.version}, and layer {layer.name!r} was "
            f"compiled for {wanted}; compile with --plugin-contract {found.version}, or install the other library"
        )
