"""Build engines for a bundle with the TensorRT that is installed here, without PyTorch, and add them to it. Standard
TensorRT builds for the GPU of this machine; TensorRT-RTX also ahead of time, for named compute capabilities."""

from __future__ import annotations

import argparse


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument(
        "--engine", default="local", metavar="TARGETS", help="local (the default): this machine's GPU; or sm89,sm120"
    )
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="device memory that the builder may use for trying"
    )
    parser.add_argument(
        "--plugin-path", metavar="LIB", help="AttentionPlugin library, for bundles of the plugin backend"
    )
    parser.add_argument("--json", action="store_true", help="print the engines' records as JSON")


def run(args: argparse.Namespace) -> int:
    """Build; a line for each engine."""
    from dataclasses import asdict

    from tt_edge import tensorrt_api
    from tt_edge.bundle import Bundle
    from tt_edge.bundle.engines import add_engine
    from tt_edge.config import Backend, EngineTarget
    from tt_edge.errors import InvalidInputError
    from tt_edge.network.build import check_target

    targets = EngineTarget.parse(args.engine).targets
    if not targets:
        raise InvalidInputError("--engine none builds nothing; give local, or compute capabilities such as sm89,sm120")
    if args.workspace is not None and args.workspace < 1:
        raise InvalidInputError(f"--workspace is {args.workspace}; give at least 1 MiB")
    bundle, tensorrt = Bundle.open(args.bundle), tensorrt_api.load()
    if bundle.manifest.config.backend is Backend.PLUGIN:
        from tt_edge.plugins.edgellm.library import load_for_building

        load_for_building(tensorrt, str(bundle.manifest.config.plugin_contract), args.plugin_path)
    for target in targets:  # a bad one is seen before the first is built
        check_target(tensorrt, target)
    workspace = None if args.workspace is None else args.workspace << 20
    records = [add_engine(args.bundle, t, show=not args.json, workspace_bytes=workspace) for t in targets]
    if args.json:
        import json

        print(json.dumps([asdict(record) for record in records], indent=2))
    else:
        for r in records:
            print(
                f"{args.bundle}: engine for {r.compute_capability}, {r.bytes / 1e6:,.1f} MB in {r.build_seconds:.1f} s "
                f"({r.flavour} {r.tensorrt_version}, built)"
            )
    return 0
