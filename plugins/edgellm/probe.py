"""Loads a plugin library and prints what it registers, as JSON. ``check`` runs it in a separate process.

An incompatible library can end the process, and the search path for its dependencies (``LD_LIBRARY_PATH``) is fixed when
a process starts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tt_edge import cuda, tensorrt_api
from tt_edge.errors import TTEdgeError
from tt_edge.plugins.edgellm import vit_contract
from tt_edge.plugins.edgellm.contracts import NAME, OWN_NAME, OWN_NAMESPACE
from tt_edge.plugins.edgellm.formats import check_formats, check_vit_formats
from tt_edge.plugins.edgellm.library import (
    check_fields,
    contract_of,
    interface_of,
    load_library,
    registered_creator,
)
from tt_edge.plugins.edgellm.own_library import is_own


def probe(library: Path) -> dict[str, Any]:
    """Creators by name; AttentionPlugin's interface, fields, generation and formats; and the facts about ViTAttentionPlugin.

    ``error`` says what went wrong, if anything.
    """
    tensorrt = tensorrt_api.load()
    trt = tensorrt.module
    result: dict[str, Any] = {"tensorrt": f"{tensorrt.flavour} {tensorrt.version}"}
    before = {creator.name for creator in trt.get_plugin_registry().all_creators}
    try:
        creator = load_library(trt, library)
        names = {c.name for c in trt.get_plugin_registry().all_creators}
        result["creators"] = sorted(names - before)
        result["interface"] = str(interface_of(creator))
        result["fields"] = _fields(creator)
        if (vit := registered_creator(trt, vit_contract.NAME)) is not None:
            result["vit"] = _vit(trt, vit)
        generation = contract_of(creator)
        result["generation"] = generation.version
        result["formats"] = _formats(lambda: check_formats(trt, generation))
    except TTEdgeError as error:
        result["error"] = str(error)
    return result


def probe_own(library: Path) -> dict[str, Any]:
    """The creators of tt-edge's own library: namespace, name and fields of each, and the contract of those for attention.

    ``error`` says what went wrong, if anything.
    """
    tensorrt = tensorrt_api.load()
    registry = tensorrt.module.get_plugin_registry()
    result: dict[str, Any] = {"tensorrt": f"{tensorrt.flavour} {tensorrt.version}", "plugins": []}
    before = {(c.plugin_namespace, c.name) for c in registry.all_creators}
    try:
        load_library(tensorrt.module, library, OWN_NAME, OWN_NAMESPACE)
        for creator in registry.all_creators:
            if (creator.plugin_namespace, creator.name) in before:
                continue
            found = {"namespace": creator.plugin_namespace, "name": creator.name, "fields": _fields(creator)}
            if creator.name in (NAME, OWN_NAME):
                found["contract"] = contract_of(creator).version
            result["plugins"].append(found)
    except TTEdgeError as error:
        result["error"] = str(error)
    return result


def _vit(trt: Any, creator: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"fields": _fields(creator)}
    try:
        check_fields(creator, vit_contract.NAME)
        found["formats"] = _formats(lambda: check_vit_formats(trt))
    except TTEdgeError as error:
        found["error"] = str(error)
    return found


def _fields(creator: Any) -> dict[str, str]:
    return {field.name: field.type.name for field in creator.field_names}


def _formats(ask: Callable[[], dict[str, dict[str, bool]]]) -> dict[str, dict[str, bool]] | str:
    """A plugin's answers about the converter's types and shapes, or why it was not asked."""
    try:
        cuda.compute_capability()
        return ask()
    except TTEdgeError as error:
        return f"not asked, which needs a GPU ({error})"


if __name__ == "__main__":
    given = Path(sys.argv[1])
    print(json.dumps(probe_own(given) if is_own(given) else probe(given)))
