"""Ask bundles questions with known answers: how many each answers exactly, and the perplexity of the right answers. With
--model the checkpoint answers too, in PyTorch and quantized as each bundle is, so that the numbers stand side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tt_edge.cli.options import add_require_signature

if TYPE_CHECKING:
    from tt_edge.bundle import Bundle
    from tt_edge.runtime.benchmark.accuracy import Accuracy, Question
    from tt_edge.runtime.llm import LLM


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("bundle", nargs="+", help="bundles; each is compared with the first")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="JSONL",
        help="one question per line: messages of a chat, or prompt, and answer",
    )
    parser.add_argument("--count", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--model", metavar="CHECKPOINT", help="what the bundles were compiled from; needs PyTorch")
    parser.add_argument("--runtime", default="auto", help="auto (the default), tensorrt or reference")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_require_signature(parser)


def run(args: argparse.Namespace) -> int:
    """Ask; a table."""
    import sys

    from tt_edge.bundle import Bundle
    from tt_edge.errors import InvalidInputError
    from tt_edge.runtime.benchmark.accuracy import measure_accuracy, read_questions
    from tt_edge.runtime.llm import LLM

    if args.count is not None and args.count < 1:
        raise InvalidInputError(f"--count is {args.count}; give at least 1")
    questions = read_questions(args.data, args.count)
    bundles = [Bundle.open(path, args.require_signature) for path in args.bundle]  # a bad one is seen at once
    rows, words = [], []
    for path, bundle in zip(args.bundle, bundles, strict=True):
        with LLM.load(path, args.runtime, args.require_signature) as llm:
            if sys.stderr.isatty():
                print(f"\r\033[K{path} …", end="", file=sys.stderr, flush=True)
            network = measure_accuracy(llm, questions)
            pytorch = _pytorch(args.model, bundle, llm, questions) if args.model else None
            words.append(llm.session.word)
        rows.append(_row(path, bundle, network, pytorch))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if args.json:
        import json

        print(json.dumps(rows, indent=2))
    else:
        print(render(rows, len(questions), sorted(set(words))))
    return 0


def _pytorch(source: str, bundle: Bundle, llm: LLM, questions: list[Question]) -> Accuracy:
    from tt_edge.compile.checkpoint import Checkpoint
    from tt_edge.compile.parity.accuracy import measure_pytorch
    from tt_edge.compile.parity.reference import load_reference

    config = bundle.manifest.config
    checkpoint = Checkpoint.open(source)
    model = load_reference(checkpoint, config.network.precision)
    if config.quantization.recipe is not None:
        from tt_edge.compile.quantize.calibrate import STATISTICS_FILE
        from tt_edge.compile.quantize.stage import quantize_again

        quantize_again(model, config.quantization.recipe, bundle.read_bytes(STATISTICS_FILE))
    return measure_pytorch(model, checkpoint, llm, questions)


def _row(path: str, bundle: Bundle, network: Accuracy, pytorch: Accuracy | None) -> dict[str, Any]:
    from tt_edge.bundle.manifest import DECODER, part_file
    from tt_edge.network.storage import WEIGHTS_FILE

    weights = part_file(DECODER, WEIGHTS_FILE)
    config, files = bundle.manifest.config, bundle.manifest.files
    return {
        "bundle": path,
        "format": config.network.precision.value
        if config.quantization.recipe is None
        else config.quantization.recipe.name,
        "weight_bytes": files[weights].size if weights in files else None,
        "network": network.to_dict(),
        "pytorch": None if pytorch is None else pytorch.to_dict(),
    }


def render(rows: list[dict[str, Any]], asked: int, words: list[str]) -> str:
    """A table: a line a bundle."""
    side_by_side = any(row["pytorch"] for row in rows)
    width = max(len("format"), *(len(row["format"]) for row in rows))
    head = f"{'format':{width}}  {'weights MB':>10}  {'exact':>7}  {'delta':>7}  {'perplexity':>10}"
    lines = [head + ("   PyTorch: exact  perplexity" if side_by_side else "")]
    for row in rows:
        network, pytorch = row["network"], row["pytorch"]
        delta = 100 * (network["exact"] - rows[0]["network"]["exact"])
        size = "" if row["weight_bytes"] is None else f"{row['weight_bytes'] / 1e6:,.2f}"
        line = f"{row['format']:{width}}  {size:>10}  {network['exact']:>7.2%}  {delta:>+7.2f}  {network['perplexity']:>10.4f}"
        if pytorch:
            line += f"   {pytorch['exact']:>14.2%}  {pytorch['perplexity']:>10.4f}"
        lines.append(line)
    lines.append(f"{asked:,} questions; {', '.join(words)}")
    return "\n".join(lines)
