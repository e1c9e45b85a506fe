"""One release's process: networks that were captured elsewhere are rebuilt, configured, loaded and run on its bindings.

``python -m tests.bindings.replay CASES RESULTS``, with an environment from ``releases``. There is no library behind the
bindings: a recorder bound to the release's own classes takes the calls. What is run is evaluated by the reference, in the
form that this release can build.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorrt as trt

from tests.bindings.loading import load_and_generate
from tests.bindings.replay_case import Case
from tests.bindings.surface import Recorder
from tt_edge import cuda
from tt_edge.errors import TTEdgeError
from tt_edge.network.build_legal import LegalBuild, build_legal
from tt_edge.network.build_options import BuildOptions
from tt_edge.network.ir import Network
from tt_edge.network.legalize.legalize import legalize
from tt_edge.network.plugins import KINDS, plugin_fields
from tt_edge.plugins.edgellm import contracts
from tt_edge.tensorrt_api import Flavour, TensorRT
from tt_edge.tensorrt_features import features_of


def main(cases: Path, results: Path) -> None:
    """Replay every case of a folder; what became of each, as JSON."""
    cuda.compute_capability = lambda: "sm110"  # there is no GPU here, and no library that would ask for one
    found = {}
    for file in sorted(cases.iterdir()):
        case: Case = pickle.loads(file.read_bytes())
        try:
            found[case.name] = replay(case)
        except TTEdgeError as error:
            found[case.name] = {"refused": str(error)}
    assert not {"torch", "transformers"} & sys.modules.keys()
    results.write_text(json.dumps(found))


def replay(case: Case) -> dict[str, Any]:
    """Build a case's network on the recorder with every option, and run it (and build it with none) where it is to be run."""
    calls: list[Any] = []
    registry = _Registry(case.network)
    fake = SimpleNamespace(get_plugin_registry=lambda: registry)
    tensorrt = TensorRT(Flavour.STANDARD, Recorder(fake, trt, trt, calls), trt.__version__)
    legal: LegalBuild[Any] | None = None
    with tempfile.TemporaryDirectory() as folder:
        timings = Path(folder) / "timings"
        every = BuildOptions(workspace_bytes=1 << 20, timing_cache=timings, version_compatible=True, strip_weights=True)
        for options in (BuildOptions(), every) if case.runs else (every,):
            legal = build_legal(
                tensorrt, case.network, case.contract, lambda own: own.profiles(), None, io.BytesIO(), options=options
            )
    assert legal is not None
    assert not legal.refused, legal.refused
    added = Counter(name for name, _ in calls if name.startswith("add_"))
    tokens = run(case, legal, calls) if case.runs else None
    return {"form": str(legal.form), "in_place": getattr(legal.contract, "kv_in_place", None), "layers": added,
            "tokens": tokens}  # fmt: skip


def run(case: Case, legal: LegalBuild[Any], calls: list[Any]) -> int:
    """Load an engine of the legal network without its weights, give it them, and generate; how many tokens were equal."""
    network = legalize(case.network, features_of(trt)).network
    return load_and_generate((trt, Flavour.STANDARD), case, network, legal.contract, calls, stripped=True)


class _Registry:
    """TensorRT's registry of plugins, which has those of one network."""

    REAL = "IPluginRegistry"

    def __init__(self, network: Network) -> None:
        self.creators = {str(layer.attributes["plugin"]): _creator(layer) for layer in _plugins(network)}

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get(name)


def _plugins(network: Network) -> Iterator[Any]:
    return (layer for layer in network.layers if layer.kind in KINDS)


def _creator(layer: Any) -> Any:
    """A creator with the fields that NVIDIA's has: those of the layer's generation."""
    generation = contracts.GENERATIONS.get(str(layer.attributes["generation"]))
    of_attention = layer.attributes["plugin"] == contracts.NAME and generation is not None
    names = generation.field_names if of_attention and generation is not None else plugin_fields(layer)
    fields = [SimpleNamespace(name=name) for name in names]
    v3 = layer.kind == "PLUGIN_V3"
    plugin = SimpleNamespace(REAL="IPluginV3" if v3 else "IPluginV2")

    class Creator:
        REAL = "IPluginCreatorV3One" if v3 else "IPluginCreator"
        field_names = fields
        interface_info = SimpleNamespace(kind="PLUGIN CREATOR_V3ONE" if v3 else "PLUGIN CREATOR_V1")

        def create_plugin(self, *_: Any) -> Any:
            return plugin

    return Creator()


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
