"""Check a bundle: that no file was changed since it was written and, with --model, that it still computes what the
Hugging Face checkpoint computes (logits, and the greedy tokens of generate(); of a vision-language model the preprocessing and
the tower's features, too)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tt_edge.cli.options import add_require_signature

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.compile.parity import ParityReport


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument("--model", metavar="CHECKPOINT", help="the checkpoint it was compiled from; needs PyTorch")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="of a vision-language model, with --model: a picture to compare on (default: two that are made up); may be repeated",
    )
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="tokens to compare (default 32)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Verify; the exit status is 1 when something does not match."""
    from tt_edge.bundle import Bundle
    from tt_edge.errors import InvalidInputError

    if args.new_tokens < 1:
        raise InvalidInputError(f"--new-tokens is {args.new_tokens}; give at least 1")
    if args.image and not args.model:
        raise InvalidInputError("--image is to compare with a checkpoint; add --model")
    bundle = Bundle.open(args.bundle, args.require_signature)
    unlisted = bundle.verify()
    result: dict[str, object] = {"files": len(bundle.manifest.files), "unlisted": unlisted}
    size = sum(record.size for record in bundle.manifest.files.values())
    lines = [f"{args.bundle}: {len(bundle.manifest.files)} files, {size / 1e6:,.1f} MB, every SHA-256 as listed"]
    lines += [f"  not in the manifest, and never read: {name}" for name in unlisted]
    passed = True
    if args.model:
        from tt_edge.compile.parity import verify_bundle

        report = verify_bundle(bundle, args.model, new_tokens=args.new_tokens, images=args.image)
        passed, result["parity"] = report.passed, report.to_dict()
        lines.append(report.render())
        lines.append(_record(bundle, report))
    if args.json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print("\n".join(lines))
    return 0 if passed else 1


def _record(bundle: Bundle, report: ParityReport) -> str:
    """Write the outcome into the manifest's evidence; a line that says so, or why not."""
    from tt_edge.bundle import update

    if bundle.is_signed:
        return "not recorded in the bundle's manifest, which is signed"
    try:
        for evidence in report.evidence():
            update.record_evidence(bundle.folder, evidence)
    except OSError as problem:
        return f"not recorded in the bundle's manifest: {problem.strerror}"
    return "recorded in the bundle's manifest"
