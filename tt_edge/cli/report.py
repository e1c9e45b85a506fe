"""Write a report of a bundle: one HTML page that loads nothing from elsewhere. It shows what the model is, evidence, bytes by block
and type, memory, predicted speed, and, from their JSON files, accuracy and measured speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from tt_edge.cli.options import add_require_signature, check_output


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument("-o", "--output", type=Path, metavar="HTML", help="the page to write")
    parser.add_argument(
        "--eval", type=Path, action="append", default=[], metavar="JSON", help="from tt-edge eval; may be repeated"
    )
    parser.add_argument(
        "--bench", type=Path, action="append", default=[], metavar="JSON", help="from tt-edge bench -o; may be repeated"
    )
    parser.add_argument(
        "--device", action="append", metavar="NAME", help="predict for this device, such as thor; repeatable"
    )
    parser.add_argument("--graph", type=Path, metavar="JSON", help="write the network as a graph for Model Explorer")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, the graph, or both."""
    from tt_edge.atomic import replace_file
    from tt_edge.bundle import Bundle
    from tt_edge.errors import InvalidInputError
    from tt_edge.roofline import find_device

    if args.output is None and args.graph is None:
        raise InvalidInputError("nothing to write; give --output HTML, --graph JSON, or both")
    check_output("--output", args.output)
    check_output("--graph", args.graph)
    if args.output is not None and args.graph is not None and args.output.resolve() == args.graph.resolve():
        raise InvalidInputError(f"--output and --graph are both {args.output}; give two files")
    if args.output is None and (args.eval or args.bench or args.device):
        raise InvalidInputError("--eval, --bench and --device are for the page; give --output HTML, or omit them")
    devices = None if args.device is None else [find_device(name) for name in args.device]
    bundle = Bundle.open(args.bundle, args.require_signature)
    contents = {}
    if args.output is not None:
        from tt_edge.report.page import make_report

        name = Path(args.bundle).resolve().name
        contents[args.output] = make_report(bundle, name, devices, args.eval, args.bench).html()
    if args.graph is not None:
        from tt_edge.report.graph import graph_of

        contents[args.graph] = graph_of(bundle)
    for path, text in contents.items():
        replace_file(path, text.encode())
        print(f"{path}: {len(text.encode()) / 1e6:,.1f} MB")
    return 0
