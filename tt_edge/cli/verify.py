"""Check a bundle: that no file was changed since it was written; with --model, that it still computes what the Hugging Face
checkpoint computes (logits, and the greedy tokens of generate(); of a vision-language model the preprocessing and the tower's
features, too), which also stores a golden set in it; and where it has one, that the engines of this machine answer it, without
PyTorch."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from tt_edge.cli.options import add_require_signature
from tt_edge.cli.terminal import safe

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.proof.golden import GoldenSet
    from tt_edge.proof.on_device import Proof


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", help="a bundle written by tt-edge compile")
    parser.add_argument("--model", metavar="CHECKPOINT", help="the checkpoint it was compiled from; needs PyTorch")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="with --model, for a vision-language model: an image to compare on (default: two generated images); may be repeated",
    )
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="tokens to compare (default 32)")
    parser.add_argument(
        "--runtime",
        default="auto",
        choices=("auto", "tensorrt", "reference", "none"),
        help="what answers the golden set: auto (the default), the engines that fit this machine, if any; tensorrt, the same or an "
        "error; reference, NumPy; none, nothing",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="if the engines do not match, build debugging engines here and name the first wrong layer",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Verify; the exit status is 1 when something does not match."""
    from tt_edge.bundle import Bundle

    _check(args)
    bundle = Bundle.open(args.bundle, args.require_signature)
    unlisted = bundle.verify()
    result: dict[str, Any] = {"files": len(bundle.manifest.files), "unlisted": unlisted}
    size = sum(record.size for record in bundle.manifest.files.values())
    lines = [f"{args.bundle}: {len(bundle.manifest.files)} files, {size / 1e6:,.1f} MB, every SHA-256 as listed"]
    lines += [f"  not in the manifest, and never read: {name}" for name in unlisted]
    passed = (_compare if args.model else _prove)(args, bundle, result, lines)
    if args.json:
        import json

        print(json.dumps(result, indent=2))
    else:
        print(safe("\n".join(lines), sys.stdout))
    return 0 if passed else 1


def _check(args: argparse.Namespace) -> None:
    """Refuse options that say nothing together."""
    from tt_edge.errors import InvalidInputError

    if args.new_tokens < 1:
        raise InvalidInputError(f"--new-tokens is {args.new_tokens}; give at least 1")
    if args.image and not args.model:
        raise InvalidInputError("--image is to compare with a checkpoint; add --model")
    if args.bisect and (args.model or args.runtime in ("reference", "none")):
        other = "--model" if args.model else f"--runtime {args.runtime}"
        raise InvalidInputError(f"--bisect looks into the engines of this machine; omit {other}")


def _compare(args: argparse.Namespace, bundle: Bundle, result: dict[str, Any], lines: list[str]) -> bool:
    """Compare with the checkpoint, record the outcome, and store the golden set; whether everything matches."""
    from tt_edge.compile.parity import GoldenMaker, golden_bytes, verify_bundle
    from tt_edge.proof.golden import GOLDEN_FILE

    maker = GoldenMaker()
    report = verify_bundle(bundle, args.model, new_tokens=args.new_tokens, images=args.image, maker=maker)
    result["parity"] = report.to_dict()
    lines.append(report.render())
    golden, note = maker.made(report)
    if note:
        lines.append(note)
    if bundle.is_signed:
        lines.append("not recorded in the bundle's manifest, which is signed")
        return report.passed
    from tt_edge.bundle import update

    try:
        if report.passed and golden is not None:
            update.put_file(bundle.folder, GOLDEN_FILE, golden_bytes(golden), report.evidence())
        else:
            for evidence in report.evidence():
                update.record_evidence(bundle.folder, evidence)
    except OSError as problem:
        lines.append(f"not recorded in the bundle's manifest: {problem.strerror}")
        return report.passed
    lines.append("recorded in the bundle's manifest")
    if report.passed and golden is not None:
        given = f"{len(golden.sources)} sources" if golden.sources else f"{len(golden.images)} images"
        lines.append(
            f"a golden set of {len(golden.prompts)} prompts and {given} ({golden.nbytes / 1e6:,.1f} MB) is in "
            "the bundle: `tt-edge verify` answers it on the device"
        )
    return report.passed


def _prove(args: argparse.Namespace, bundle: Bundle, result: dict[str, Any], lines: list[str]) -> bool:
    """Answer the golden set with this machine's engines and record the outcome; whether it matches."""
    from tt_edge.errors import InvalidInputError
    from tt_edge.proof import on_device
    from tt_edge.runtime.engine.choose import Machine

    if args.runtime == "none":
        return True
    golden = on_device.golden_of(bundle)
    if golden is None:
        command = f"`tt-edge verify {bundle.path} --model CHECKPOINT` on the host"
        remedy = f"{command} stores one"
        if args.bisect or args.runtime != "auto":
            raise InvalidInputError(f"{bundle.path} has no golden set; {remedy}")
        lines.append(f"only the files were checked: the bundle has no golden set; {remedy}")
        return True
    machine = Machine.detect()
    proof = on_device.prove(bundle, golden, "tensorrt" if args.bisect else args.runtime, machine)
    if proof is None:
        lines.append(
            f"the golden set was not answered: no engine fits this machine ({machine}); build one with `tt-edge build "
            f"{bundle.path}`, or use --runtime reference"
        )
        return True
    _report(bundle, proof, result, lines)
    if args.bisect and not proof.replay.passed:
        _bisect(bundle, golden, proof, result, lines)
    return proof.passed


def _report(bundle: Bundle, proof: Proof, result: dict[str, Any], lines: list[str]) -> None:
    from tt_edge.proof.evidence import record

    result["golden"] = proof.replay.to_dict()
    result["precision"] = {part: report.to_dict() for part, report in proof.precision.items()}
    lines.append(proof.replay.render())
    lines += [report.render() for report in proof.precision.values()]
    if proof.hint:
        lines.append(proof.hint)
    lines.append(record(bundle, [proof.evidence]))
    if not proof.replay.passed and proof.engines:
        lines.append(f"`tt-edge verify {bundle.path} --bisect` looks for the layer that is wrong")


def _bisect(bundle: Bundle, golden: GoldenSet, proof: Proof, result: dict[str, Any], lines: list[str]) -> None:
    import sys

    from tt_edge.proof import on_device

    engines_of, traps = on_device.debugging_engines(bundle)

    def show(marked: Any, outcome: str) -> None:
        print(f"tt-edge: debugging engine with {len(marked)} tensors marked: {outcome}", file=sys.stderr)

    case, verdict = on_device.search(bundle, golden, proof.replay, engines_of, proof.engines, show)
    result["bisect"] = {"part": case.part, "call": case.text, **verdict.to_dict(), "known": [t.name for t in traps]}
    lines.pop()  # that there is a search
    lines.append(on_device.Search(case, verdict, traps).render())
