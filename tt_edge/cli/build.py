"""Build engines for a bundle with the TensorRT that is installed here, without PyTorch, and add them to it. Standard
TensorRT builds for the GPU of this machine; TensorRT-RTX also ahead of time, for named compute capabilities."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tt_edge.cli.options import add_cache_dir, add_require_signature

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle, EngineRecord
    from tt_edge.network.build_options import BuildOptions


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument(
        "--engine", default="local", metavar="TARGETS", help="local (the default): this machine's GPU; or sm89,sm120"
    )
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="device memory that the builder may use as workspace"
    )
    parser.add_argument(
        "--timing-cache", metavar="FILE", help="keep timings of kernels here, so that the next build is faster"
    )
    add_cache_dir(parser)
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="build engines that later TensorRT of the same major version can run, including the lean and dispatch runtimes",
    )
    parser.add_argument(
        "--strip-weights",
        action="store_true",
        help="build engines without weights; the bundle's weights are added when they are loaded",
    )
    parser.add_argument(
        "--plugin-path", metavar="LIB", help="AttentionPlugin library, for bundles of the plugin backend"
    )
    parser.add_argument(
        "--engines-only",
        metavar="OUTPUT",
        help="then write a bundle to ship: the engines and the tokenizer, not the network that they were built from",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="build ahead of time, a target on each machine of a Ray cluster, which has the bundle at the same path (a shared "
        "folder): HOST:PORT, auto, or local (started for this)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --engines-only bundle")
    parser.add_argument("--json", action="store_true", help="print the engines' records as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Build; a line for each engine."""
    from dataclasses import asdict
    from pathlib import Path

    from tt_edge.bundle import Bundle
    from tt_edge.bundle.manifest import DECODER
    from tt_edge.bundle.shipping import ship_engines
    from tt_edge.config import EngineTarget, Layout
    from tt_edge.errors import InvalidInputError
    from tt_edge.network.build_options import BuildOptions

    targets = EngineTarget.parse(args.engine).targets
    if not targets:
        raise InvalidInputError("--engine none builds nothing; give local, or compute capabilities such as sm89,sm120")
    options = BuildOptions(
        workspace_bytes=None if args.workspace is None else args.workspace << 20,
        timing_cache=None if args.timing_cache is None else Path(args.timing_cache),
        version_compatible=args.version_compatible,
        strip_weights=args.strip_weights,
    )
    bundle = Bundle.open(args.bundle, args.require_signature)
    if bundle.manifest.config.network.layout is Layout.EDGE_LLM and len(targets) > 1:
        raise InvalidInputError("the edge-llm layout has room for one engine; give one --engine target")
    build = _on_a_cluster if args.ray is not None else _here
    records = build(args, bundle, targets, options)
    if args.engines_only is not None:
        ship_engines(Bundle.open(args.bundle), args.engines_only, overwrite=args.overwrite)
    if args.json:
        import json

        print(json.dumps([asdict(record) for record in records], indent=2))
        return 0
    for r in records:
        what = "engine" if r.part == DECODER else f"{r.part} engine"
        kind = "".join(f", {word}" for word, true in _KINDS.items() if getattr(r, true))
        print(
            f"{args.bundle}: {what} for {r.compute_capability}, {r.bytes / 1e6:,.1f} MB in {r.build_seconds:.1f} s "
            f"({r.flavour} {r.tensorrt_version}{kind}, built{r.replaced})"
        )
    if bundle.is_signed:
        print(f"{args.bundle}: its signature is of the bundle before; sign it again", file=sys.stderr)
    if args.engines_only is not None:
        print(f"{args.engines_only}: the engines, without the network")
    return 0


_KINDS = {"version-compatible": "version_compatible", "without weights": "stripped"}


def _here(
    args: argparse.Namespace, bundle: Bundle, targets: Sequence[str | None], options: BuildOptions
) -> list[EngineRecord]:
    from tt_edge import tensorrt_api
    from tt_edge.bundle.engine_cache import EngineCache
    from tt_edge.bundle.engines import add_engine
    from tt_edge.network.build import check_target

    cache = EngineCache.of(args.cache_dir)
    tensorrt = tensorrt_api.load()
    if bundle.manifest.config.needs_plugins:
        from tt_edge.plugins.edgellm.library import load_for_building

        load_for_building(tensorrt, bundle.manifest.config, args.plugin_path)
    for target in targets:  # a bad one is seen before the first is built
        check_target(tensorrt, target)
    options, notes = options.fitting(tensorrt)
    for note in notes:
        print(f"tt-edge: {note}", file=sys.stderr)
    return [
        add_engine(bundle, target, show=not args.json, options=options, part=part, cache=cache)
        for target in targets
        for part in bundle.manifest.parts
    ]


def _on_a_cluster(
    args: argparse.Namespace, bundle: Bundle, targets: Sequence[str | None], options: BuildOptions
) -> list[EngineRecord]:
    from tt_edge.errors import InvalidInputError
    from tt_edge.ray.building import build_engines
    from tt_edge.ray.cluster import connected

    if args.cache_dir is not None:
        raise InvalidInputError("--cache-dir is a folder of this machine, and --ray builds on others; omit one of them")
    named = [target for target in targets if target is not None]
    if len(named) < len(targets):
        raise InvalidInputError("--ray builds for named GPUs, and --engine has local; give such as sm89,sm120")
    if bundle.manifest.config.needs_plugins:
        raise InvalidInputError(
            f"{args.bundle} needs plugins, whose engines are built where they run; omit --ray, and build there"
        )
    with connected(args.ray) as cluster:
        return list(build_engines(cluster, bundle, named, options, args.require_signature))
