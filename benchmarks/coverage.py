"""How many architectures of transformers work that nobody added: each made tiny, compiled, and compared with generate().

    python benchmarks/coverage.py --kind seq2seq|vlm [--only bart t5 …] [--json FILE] [--table FILE] [--one-process]

Each model runs in a process of its own, or all in one. `works` is equal greedy tokens in fp32, `refused` is an error that names the
feature, `wrong` is other tokens, and `failed` any other end. `not compared` models were built tiny, but not a checkpoint of them;
`not made` ones could not be built tiny, or do not generate by themselves.
With `--json`, results that are already in FILE are kept, so that a run that was stopped goes on.

A kind is a module `coverage_KIND.py` beside this file with `candidates() -> dict[str, str]`, the class of each model by model
type, and `attempt(name) -> Outcome`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

KINDS = ("seq2seq", "vlm")
#: Seconds that one model may take.
LIMIT_S = 300
WORDS = ("works", "refused", "wrong", "failed", "not compared", "not made")
_RESULT = "RESULT "


@dataclass(frozen=True)
class Outcome:
    """What became of a model: one of ``WORDS``, and the reason."""

    word: str
    reason: str = ""


def one_line(error: BaseException) -> str:
    """The error's first line, with its type where it is no error of tt-edge."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    own = type(error).__module__.startswith("tt_edge")
    return (text if own else f"{type(error).__name__}: {text}")[:300]


def in_process(kind: str, name: str) -> Outcome:
    """The outcome of one model, from a process of its own."""
    command = [sys.executable, __file__, "--kind", kind, "--child", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Outcome("failed", f"it took more than {LIMIT_S} s")
    line = next((line for line in done.stdout.splitlines() if line.startswith(_RESULT)), None)
    if line is None:
        return Outcome("failed", (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300])
    return Outcome(**json.loads(line.removeprefix(_RESULT)))


def summary(results: dict[str, dict[str, Any]]) -> str:
    """How many of those that can be made tiny work."""
    count = Counter(result["word"] for result in results.values())
    made = sum(count.values()) - count["not made"]
    others = ", ".join(f"{count[word]} {word}" for word in WORDS[1:-1])
    return f"{count['works']} of {made} work, {others}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """A table in Markdown. Class names are long and do not break, so they share a column with the model types."""
    lines = ["| model type and class | outcome | reason |", "|---|---|---|"]
    for name, result in sorted(results.items(), key=lambda item: (WORDS.index(item[1]["word"]), item[0])):
        reason = result["reason"].replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| **{name}**<br>{result['class']} | {result['word']} | {reason} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", required=True, choices=KINDS)
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", help="these only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here, and go on from there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table in Markdown here")
    parser.add_argument(
        "--one-process", action="store_true", help="all models in this process: faster, and one that crashes ends it"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    kind = importlib.import_module(f"benchmarks.coverage_{args.kind}")
    if args.child:
        print(_RESULT + json.dumps(asdict(kind.attempt(args.child))))
        return 0
    results: dict[str, dict[str, Any]] = {}
    if args.json and args.json.is_file():
        results = json.loads(args.json.read_text())
    for name, class_name in kind.candidates().items():
        if (args.only and name not in args.only) or (not args.only and name in results):
            continue
        outcome = kind.attempt(name) if args.one_process else in_process(args.kind, name)
        results[name] = {"class": class_name, **asdict(outcome)}
        print(f"{name:<28}{outcome.word:<10}{outcome.reason}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    print(summary(results))
    if args.table:
        args.table.write_text(table(results))
    return int(any(result["word"] in ("wrong", "failed") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
