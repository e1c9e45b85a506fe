"""The accuracy cost of quantization: every format on the trained model of examples/driving_qa, network beside PyTorch.

    python benchmarks/accuracy_table.py [--count 450] [--formats fp8 int4_awq …] [--check]
    python benchmarks/accuracy_table.py --pictures [--count 450] [--check]

Compiles the checkpoint once in fp16 and once in each format, calibrated on questions of the training split, and asks
all bundles the same held-out questions with `tt-edge eval --model`. The network's numbers come from the evaluation of the
captured network, on any machine. --check fails where exact answers fall by more than a point (fp8, int8) or three (int4,
nvfp4).

--pictures does the same for the vision-language model of examples/road_scenes, calibrated on images of the training split:
every format of the language part with the tower in fp16; the tower's formats, alone and with the language part in the same; and
parts of the image tokens (--keep-image-tokens), for which PyTorch's column has all tokens. --only towers and --only tokens leave
out the other rows. To measure the effect of images, --calibrate-on text calibrates only on the text of the questions, built-in
on the built-in set, and passages only on the text of that set. --check also fails below 90 % exact answers, dropped tokens
excepted. --network-only leaves out PyTorch, which takes most of the time: a model in fp16 is slow on a CPU. Without it, 150
questions take a format about three minutes on two busy cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tt_edge.compile.quantize.builtin_text import PASSAGES
from tt_edge.config.quantization import QuantFormat
from tt_edge.evaluation.formats.questions import Questions
from tt_edge.evaluation.report import render

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "examples" / "driving_qa" / "checkpoint"
ROAD_SCENES = ROOT / "examples" / "road_scenes" / "checkpoint"
#: Rows with a quantized tower: options by name.
TOWERS = {
    "vision fp8": ("--quant-vision", "fp8"),
    "vision int8_sq": ("--quant-vision", "int8_sq"),
    "fp8, vision fp8": ("--quant", "fp8", "--quant-vision", "fp8"),
    "int8_sq, vision int8_sq": ("--quant", "int8_sq", "--quant-vision", "int8_sq"),
}
#: Rows with dropped image tokens. PyTorch's side has all of them.
TOKENS = {f"fp16, {part:.0%} of image tokens": ("--keep-image-tokens", str(part)) for part in (0.75, 0.5, 0.25)}
BARS = (
    dict.fromkeys(TOWERS, 1.0)
    | dict.fromkeys(TOKENS, 100.0)
    | {
        "fp8": 1.0,
        "int8_sq": 1.0,
        "int8_wo": 1.0,
        "int4_awq": 3.0,
        "int4_wo": 3.0,
        "nvfp4": 3.0,
    }
)


def call(*arguments: str, quiet: bool = False) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"accuracy_table.py: {' '.join(arguments)} failed:\n{done.stderr}")
    if not quiet:
        print(done.stdout, end="", flush=True)
    return done.stdout


def write_questions(args: argparse.Namespace, folder: Path) -> tuple[Path | None, Path]:
    """Write the calibration data (``None``: the built-in set) and the held-out questions."""
    found = []
    for split, count in (("train", args.calibration), ("test", args.count)):
        options = ("--split", split, "--count", str(count))
        if args.pictures:
            call("examples.road_scenes.evaluate", "--write-jsonl", str(folder / split), *options, quiet=True)
            found.append(folder / split / "questions.jsonl")
        else:
            found.append(folder / f"{split}.jsonl")
            call("examples.driving_qa.questions", "--write-jsonl", str(found[-1]), *options, quiet=True)
    training, held_out = found
    if args.calibrate_on == "built-in":
        return None, held_out
    if args.calibrate_on == "text":
        return write_lines(folder / "text.jsonl", without_pictures(training)), held_out
    if args.calibrate_on == "passages":
        return write_lines(folder / "passages.jsonl", [{"text": text} for text in PASSAGES]), held_out
    return training, held_out


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def without_pictures(questions: Path) -> list[dict[str, str]]:
    """The same questions and answers as plain text."""
    rows = [json.loads(line) for line in questions.read_text("utf-8").splitlines()]
    return [
        {"prompt": "\n".join(p["text"] for m in row["messages"] for p in m["content"] if p["type"] == "text"),
         "answer": row["answer"]}
        for row in rows
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=450, help="held-out questions (default 450)")
    parser.add_argument("--calibration", type=int, default=512, help="questions to calibrate on (default 512)")
    parser.add_argument("--formats", nargs="*", choices=list(QuantFormat))
    parser.add_argument("--pictures", action="store_true", help="the vision-language model of examples/road_scenes")
    parser.add_argument(
        "--only",
        choices=["towers", "tokens"],
        help="with --pictures: only the formats of the tower, or only dropped tokens",
    )
    parser.add_argument(
        "--calibrate-on",
        choices=["pictures", "text", "built-in", "passages"],
        help="with --pictures (default: pictures)",
    )
    parser.add_argument("--network-only", action="store_true", help="do not ask PyTorch's model beside each bundle")
    parser.add_argument("--check", action="store_true", help="fail where a format misses its bar")
    args = parser.parse_args()
    if args.calibrate_on and not args.pictures:
        parser.error("--calibrate-on needs --pictures; add it")
    if args.only and (not args.pictures or args.formats):
        parser.error("--only is for --pictures, without --formats")
    formats: dict[str, tuple[str, ...]] = {str(name): ("--quant", str(name)) for name in args.formats or QuantFormat}
    if args.pictures and not args.formats:
        formats = {"towers": TOWERS, "tokens": TOKENS}.get(args.only, formats | TOWERS | TOKENS)
    checkpoint = str(ROAD_SCENES if args.pictures else CHECKPOINT)
    limits = ["--max-batch", "64", "--max-input-len", "128", "--max-seq-len", "192"]
    if args.pictures:
        limits = ["--max-batch", "32", "--max-input-len", "192", "--max-seq-len", "256", "--max-image-tokens", "144"]
    with tempfile.TemporaryDirectory(prefix="tt-edge-") as scratch:
        folder = Path(scratch)
        (training, data), bundles = write_questions(args, folder), []
        for name, options in {"fp16": (), **formats}.items():
            bundle, quant = str(folder / f"{len(bundles)}.ttedge"), list(options)
            if quant and name not in TOKENS and training is not None:
                quant += ["--calib-data", str(training), "--calib-samples", str(args.calibration)]
            call("tt_edge", "compile", checkpoint, "-o", bundle, *limits, *quant, quiet=True)
            bundles.append(bundle)
        asked = ["--data", str(data), "--runtime", "reference", "--json"]
        asked += [] if args.network_only else ["--model", checkpoint]
        rows = [row for b in bundles for row in json.loads(call("tt_edge", "eval", b, *asked, quiet=True))]
        print(render(Questions(data), rows))
    exact = [100 * row["network"]["exact"] for row in rows]
    missed = [name for name, value in zip(formats, exact[1:], strict=True) if exact[0] - value > BARS[name]]
    if args.pictures:
        whole = [(row, value) for row, value in zip(rows, exact, strict=True) if row["format"] not in TOKENS]
        missed += [row["format"] for row, value in whole if value < 90]
    if args.check and missed:
        print(f"below their bars: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
