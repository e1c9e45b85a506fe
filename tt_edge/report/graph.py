"""The networks of a bundle as a graph that Google's Model Explorer opens: its JSON format of a GraphCollection.

Nodes are grouped by the module of the model that they are of. Weights of a node are its inputs, as nodes of their own.
"""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any

from tt_edge.bundle import Bundle
from tt_edge.bundle.manifest import DECODER
from tt_edge.errors import BundleError
from tt_edge.network.ir import Layer, Network, Tensor

#: A module's path, such as ``model.layers.0.self_attn.q_proj``, in a layer's name.
_MODULE = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Za-z_0-9][\w.]*")
_NOT_MODULES = ("torch.", "aten.", "aten_ops.", "DataType.")
#: Characters of an attribute's value that are shown.
_MAX_VALUE = 200


def graph_of(bundle: Bundle) -> str:
    """The JSON text; one graph for each part. Raises ``BundleError`` for a bundle of engines only."""
    if not bundle.has_network:
        raise BundleError("the bundle has engines only; export the graph of the bundle that it was made from")
    parts = sorted(bundle.manifest.parts, key=lambda name: name != DECODER)
    graphs = [{"id": part, "nodes": _nodes(bundle.network(part))} for part in parts]
    return json.dumps({"label": bundle.manifest.model.name or "network", "graphs": graphs}, separators=(",", ":"))


def _nodes(network: Network) -> list[dict[str, Any]]:
    """Inputs, layers and outputs. A node's identifier is its index, as names of layers need not be unique."""
    source: dict[str, tuple[str, int]] = {}
    nodes: list[dict[str, Any]] = []

    def add(
        label: str, namespace: str, inputs: list[str | None], outputs: list[str], attributes: dict[str, Any]
    ) -> None:
        identifier = str(len(nodes))
        source.update({name: (identifier, index) for index, name in enumerate(outputs)})
        edges = [
            {
                "sourceNodeId": source[name][0],
                "sourceNodeOutputId": str(source[name][1]),
                "targetNodeInputId": str(index),
            }
            for index, name in enumerate(inputs)
            if name is not None and name in source
        ]
        nodes.append(
            {
                "id": identifier,
                "label": label,
                "namespace": namespace,
                "attrs": [{"key": key, "value": _shown(value)} for key, value in attributes.items()],
                "incomingEdges": edges,
                "outputsMetadata": [
                    {"id": str(index), "attrs": _of_tensor(network.tensors[name])} for index, name in enumerate(outputs)
                ],
            }
        )

    for name in network.inputs:
        add(name, "Inputs", [], [name], {})
    for layer in network.layers:
        before = [nodes[int(source[name][0])]["namespace"] for name in layer.inputs if name in source]
        namespace = _namespace(layer.name) or _beside([each for each in before if each not in ("", "Inputs")])
        add(_label(layer), namespace, layer.inputs, layer.outputs, {"name": layer.name, **layer.attributes})
    for name in network.outputs:
        add(name, "Outputs", [name], [], {})
    return nodes


def _label(layer: Layer) -> str:
    return (
        layer.kind.lower()
        if layer.kind != "CONSTANT"
        else "weight"
        if layer.name.endswith((".weight", ".bias"))
        else "constant"
    )


def _of_tensor(tensor: Tensor) -> list[dict[str, str]]:
    shape = ", ".join("?" if dim < 0 else str(dim) for dim in tensor.shape)
    return [
        {"key": "__tensor_tag", "value": tensor.name},
        {"key": "tensor_shape", "value": f"{tensor.dtype}[{shape}]"},
    ]


def _namespace(name: str) -> str:
    """The modules around a layer, outermost first, separated by slashes: ``layers.0`` is one of them."""
    found = [path for path in _MODULE.findall(name) if not path.startswith(_NOT_MODULES)]
    if not found:
        return ""
    path = re.sub(r"^(?:model\.)+|\.(?:weight|bias)$", "", found[-1])
    return re.sub(r"\.(?!\d)", "/", path)


def _beside(namespaces: list[str]) -> str:
    """Where a layer without a module of its own belongs: the module that is around all that it reads."""
    if not namespaces:
        return ""
    paths = [namespace.split("/") for namespace in namespaces]
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]
    return "/".join(shared if len(set(namespaces)) > 1 else shared[:-1])


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + " …"
