"""Look at this machine: system release, TensorRT and its features, GPU and driver, memory, plugin library; with a bundle also
at what that needs here, and at faults that are known of the two. Exit status 1 when something is wrong."""

from __future__ import annotations

import argparse

from tt_edge.cli.options import add_require_signature


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", nargs="?", help="a bundle that is to run here (default: only the machine)")
    parser.add_argument("--plugin-path", metavar="LIB", help="AttentionPlugin library to look at")
    parser.add_argument("--json", action="store_true", help="print facts and findings as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Examine; a line a finding."""
    from tt_edge.bundle import Bundle
    from tt_edge.doctor import examine

    bundle = Bundle.open(args.bundle, args.require_signature) if args.bundle else None
    report = examine(bundle, plugin_path=args.plugin_path)
    if args.json:
        import json

        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report.render())
    return 0 if report.healthy else 1
