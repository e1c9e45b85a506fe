"""Write a model repository for Triton Inference Server (Python backend) that serves a bundle; its inputs and its output have the
names of Triton's vLLM backend. The bundle stays where it is. Needs no PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", type=Path, help="a bundle written by tt-edge compile")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the model repository")
    parser.add_argument("--name", help="the model's name (default: the bundle's without .ttedge)")
    parser.add_argument("--runtime", default="auto", help="auto (the default), tensorrt or reference")
    parser.add_argument(
        "--max-waiting", type=int, default=64, metavar="N", help="requests that may wait; more are refused (default 64)"
    )


def run(args: argparse.Namespace) -> int:
    """Check the bundle and write the repository."""
    from tt_edge.errors import InvalidInputError
    from tt_edge.triton.repository import check_bundle, write_repository

    if args.max_waiting < 0 or args.runtime not in ("auto", "tensorrt", "reference"):
        raise InvalidInputError(
            f"--max-waiting {args.max_waiting} or --runtime {args.runtime} is out of range; give 0 or more, and auto, "
            "tensorrt or reference"
        )
    check_bundle(args.bundle)
    name = args.name or args.bundle.resolve().name.removesuffix(".ttedge")
    try:
        model = write_repository(
            args.bundle, args.output, name=name, runtime=args.runtime, max_waiting=args.max_waiting
        )
    except OSError as error:
        raise InvalidInputError(f"{args.output} cannot be written ({error.strerror}); give another folder") from error
    print(f"{model}: model {name} of {args.bundle}\ntritonserver --model-repository {args.output.resolve()}")
    return 0
