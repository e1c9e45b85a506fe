"""Engines of a bundle, each built on a machine of a Ray cluster. All machines see the bundle at the same path, as on NFS."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from tt_edge import tensorrt_api
from tt_edge.bundle import Bundle, EngineRecord
from tt_edge.bundle.engines import add_engine
from tt_edge.network.build import check_target
from tt_edge.network.build_options import BuildOptions
from tt_edge.ray.cluster import Cluster


def build_engines(
    cluster: Cluster, bundle: Bundle, targets: Sequence[str], options: BuildOptions, require_signature: str | None
) -> Iterator[EngineRecord]:
    """Build the engine of each part for each of ``targets``, which are compute capabilities; yields records as they are done.

    A machine that is lost costs the engine that it was building, which another one builds again. Raises what ``add_engine``
    raises.
    """
    path = os.path.realpath(bundle.path)
    calls = [[path, target, part, options, require_signature] for target in targets for part in bundle.manifest.parts]
    yield from cluster.results(_build, calls)


def _build(path: str, target: str, part: str, options: BuildOptions, require_signature: str | None) -> EngineRecord:
    tensorrt = tensorrt_api.load()
    check_target(tensorrt, target)
    fitting, _ = options.fitting(tensorrt)
    bundle = Bundle.open(path, require_signature)
    return add_engine(bundle, target, show=False, options=fitting, part=part)
