"""Loads a plugin library and prints, as JSON, what it registers. Run as a process of its own by ``check``.

A library that does not fit can end the process, and where its dependencies are found (``LD_LIBRARY_PATH``) is settled
when a process starts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tt_edge import tensorrt_api
from tt_edge.errors import TTEdgeError
from tt_edge.plugins.edgellm.library import contract_of, interface_of, load_library


def probe(library: Path) -> dict[str, Any]:
    """Creators by name, and AttentionPlugin's interface, fields and generation; ``error`` where there is none."""
    tensorrt = tensorrt_api.load()
    trt = tensorrt.module
    result: dict[str, Any] = {"tensorrt": f"{tensorrt.flavour} {tensorrt.version}"}
    before = {creator.name for creator in trt.get_plugin_registry().all_creators}
    try:
        creator = load_library(trt, library)
        names = {c.name for c in trt.get_plugin_registry().all_creators}
        result["creators"] = sorted(names - before)
        result["interface"] = str(interface_of(creator))
        result["fields"] = {field.name: field.type.name for field in creator.field_names}
        result["generation"] = contract_of(creator).version
    except TTEdgeError as error:
        result["error"] = str(error)
    return result


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]))))
